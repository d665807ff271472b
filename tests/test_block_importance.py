"""Scores and nested rankings of blocks, by hand."""

import numpy as np
import pytest
import torch

from paceline.errors import ModelError, ProfileError
from paceline.models.block_importance import BlockImportance, rank_by_loss, rank_by_scores
from paceline.models.block_influence import changes
from paceline.models.registry import load_model
from paceline.profiling.options import ProfileOptions


def test_always_kept_blocks_stand_first_and_the_earlier_of_equals_wins():
    assert rank_by_scores([0.0, 0.2, 0.9, 0.2]) == (0, 2, 1, 3)
    assert rank_by_scores([0.0, 0.2, 0.9, 0.2], always_kept=(3, 1)) == (1, 3, 2, 0)
    assert rank_by_scores([None, 0.2, 0.9]) == (0, 2, 1)
    with pytest.raises(ModelError, match=r"expected one of every block but \[0\]"):
        rank_by_scores([0.0, 0.2, None])


def test_greedy_ablation_looks_at_what_is_left():
    """Blocks 1 and 2 do the same: either may go alone, but not both."""

    def losses(kept, candidates):
        found = {}
        for block in candidates:
            left = set(kept) - {block}
            found[block] = (0 if left & {1, 2} else 10) + (0 if 3 in left else 4) + (0 if 4 in left else 1)
        return found

    ranking, alone = rank_by_loss(5, losses, fewest=1)
    assert alone == {1: 0, 2: 0, 3: 4, 4: 1}
    assert ranking == (0, 1, 3, 4, 2)  # by scores alone 1 would go next
    assert rank_by_scores([None, *alone.values()]) == (0, 3, 4, 1, 2)
    assert rank_by_loss(5, losses, fewest=3)[0] == (0, 1, 3, 4, 2)
    assert rank_by_loss(5, losses, fewest=1, always_kept=(0, 2))[0] == (0, 2, 3, 4, 1)
    assert rank_by_loss(5, losses, fewest=5) == ((0, 1, 2, 3, 4), {})


def test_the_change_of_a_token_is_one_minus_its_cosine():
    before = torch.tensor([[1.0, 0.0], [3.0, 4.0], [0.0, 2.0]])
    after = torch.tensor([[-5.0, 0.0], [4.0, 3.0], [0.0, 1.0]])
    np.testing.assert_allclose(changes(before, after), [2.0, 1 - 24 / 25, 0.0], atol=1e-6)
    assert changes(before.bfloat16(), after.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ranking": (0, 2)}, r"block importance gave \[0, 2\], expected every block"),
        ({"scores": (0.1,)}, "1 scores for 2 blocks"),
        ({"method": "cosine"}, r"importance: got 'cosine', expected one of \['loss', 'similarity'\]"),
    ],
)
def test_what_is_no_importance_is_refused(fields, message):
    good = {"method": "loss", "ranking": (0, 1), "scores": (None, 0.5)}
    assert BlockImportance(**good).to_json() == {"method": "loss", "ranking": [0, 1], "scores": [None, 0.5]}
    with pytest.raises(ModelError, match=message):
        BlockImportance(**(good | fields))


def test_an_unknown_method_is_refused_by_options_and_model():
    with pytest.raises(ProfileError, match="importance: got 'angle', expected one of"):
        ProfileOptions(importance="angle")
    model = load_model("tiny")
    with pytest.raises(ModelError, match="importance: got 'angle', expected one of"):
        model.block_importance([], [], "angle")
