"""`--set NAME=VALUE`: any option of training on the command line."""

import pytest

from command_line import run
from paceline.cli.training_settings import with_settings
from paceline.errors import TrainError
from paceline.learning.options import TrainOptions
from paceline.rewards import RewardParams


def test_values_are_read_by_their_kind():
    words = [
        "clip_eps_high=0.3",
        "relabel=false",
        "kl_reference=previous",
        "inner_epochs=4",
        "kl_weight=null",
    ]
    made = with_settings(
        TrainOptions(algorithm="grpo_warm", kl_weight=0.2), [*words, "reward_params.alpha=2", "group_size=0"]
    )
    assert made == TrainOptions(
        algorithm="grpo_warm",
        clip_eps_high=0.3,
        relabel=False,
        kl_reference="previous",
        inner_epochs=4,
        group_size=0,
        reward_params=RewardParams(alpha=2),
    )
    assert with_settings(made, []) is made


def test_options_that_need_each_other_are_set_together():
    assert (
        with_settings(TrainOptions(algorithm="grpo_warm"), ["baseline=full", "reward=v2"]).baseline == "full"
    )


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "clip_eps",
            "--set: got 'clip_eps', expected NAME=VALUE with a name of algorithm, augment, average_share",
        ),
        ("clip_epsilon=0.2", "got 'clip_epsilon=0.2', expected NAME=VALUE"),
        ("reward_params={}", "got 'reward_params={}'"),
        ("reward_params.alpha=big", "reward parameter alpha: got 'big', expected a finite number"),
        ("clip_eps_low=wide", "clip_eps_low: got 'wide', expected a number above 0"),
        ("learning_rate=30", "learning_rate: got 30, expected a number above 0 and at most 1"),
        ("temperature=1e400", "temperature: got inf, expected a number above 0 and finite"),
        ("entropy_weight=true", "entropy_weight: got True, expected a number"),
        ("relabel=no", "relabel: got 'no', expected true or false"),
        ("inner_epochs=1.5", "inner_epochs: got 1.5, expected a whole number"),
    ],
)
def test_bad_settings_are_named(setting, message):
    with pytest.raises(TrainError, match=message.replace("{", r"\{").replace("}", r"\}")):
        with_settings(TrainOptions(algorithm="grpo_warm"), [setting])


@pytest.mark.parametrize("command", [["train", "--out", "x"], ["compare"]])
def test_commands_refuse_them_before_anything_is_read(command, tmp_path):
    name, *rest = command
    result = run(name, tmp_path, *rest, "--set", "magic=1")
    assert result.exit_code == 2
    assert "--set: got 'magic=1'" in result.stderr
