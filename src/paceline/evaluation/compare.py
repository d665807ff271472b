"""Train the learners on equal terms and judge them with every baseline on the same test samples."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from paceline.errors import TrainError
from paceline.evaluation.contest import ContestOptions, contest
from paceline.evaluation.evaluate import overhead_of, provenance_of
from paceline.evaluation.policy_scorer import policy_scorer
from paceline.evaluation.problem import fit_latency, problem_of
from paceline.evaluation.splits import fit_and_test
from paceline.latency.estimate import LatencyEstimator
from paceline.learning.options import TrainOptions
from paceline.learning.progress import Progress
from paceline.learning.train import TrainedPolicy, train_controller_policy
from paceline.outcomes.table import OutcomeTable

CONTENDER = {"grpo": "paceline"}
"""Algorithm -> name of its contender where they differ."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CompareOptions:
    """What is trained and how it is judged."""

    algorithms: tuple[str, ...] = ("grpo", "supervised")
    train: TrainOptions = field(default_factory=TrainOptions)  # of every algorithm alike
    contest: ContestOptions = field(default_factory=ContestOptions)

    def __post_init__(self) -> None:
        if not self.algorithms or len(set(self.algorithms)) != len(self.algorithms):
            raise TrainError(f"algorithms: got {list(self.algorithms)}, expected one or more, each once")


def compare(
    table: OutcomeTable,
    options: CompareOptions | None = None,
    progress: Progress | None = None,
    *,
    latency: LatencyEstimator | None = None,
    trained: Mapping[str, TrainedPolicy] | None = None,
) -> dict[str, Any]:
    """The results object of all learners and baselines on a table's test split.

    `trained` holds policies by algorithm that need not be trained again; `latency` an estimate that is already
    fitted (by default it is fitted on the timed samples outside the test split). Raises TrainError or OutcomesError
    for a table on which nothing can be trained or judged.
    """
    options = options or CompareOptions()
    latency = latency or fit_latency(table, violation_rate=options.contest.violation_rate)
    fit_table, test_table, samples = fit_and_test(table)
    policies: dict[str, TrainedPolicy] = {}
    for algorithm in options.algorithms:
        known = (trained or {}).get(algorithm)
        policies[algorithm] = known or train_controller_policy(
            table, latency, replace(options.train, algorithm=algorithm), progress=progress
        )
    numpy_policies = {name: policy.numpy_policy() for name, policy in policies.items()}
    scorers = {
        CONTENDER.get(name, name): policy_scorer(policy, table.actions, scale=latency.scale)
        for name, policy in numpy_policies.items()
    }
    fit, test = problem_of(fit_table, latency), problem_of(test_table, latency)
    value = contest(fit, test, scorers, options.contest, progress)
    value["samples"] = samples
    value["overhead"] = overhead_of(numpy_policies[options.algorithms[0]], latency, fit, test_table)
    value["training"] = {
        name: {"facts": policy.facts, "history": policy.history} for name, policy in policies.items()
    }
    value["provenance"] = provenance_of(table, latency, options.contest) | {
        "algorithms": list(options.algorithms),
        "contest": asdict(options.contest),
    }
    return value
