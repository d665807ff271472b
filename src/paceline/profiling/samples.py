"""Which samples a sweep draws from a task, and which of them it times."""

from collections.abc import Sequence

import numpy as np

from paceline.errors import ProfileError
from paceline.outcomes.table import SAMPLE_FIELDS, SPLITS
from paceline.profiling.options import DEFAULT_SCOUT_SAMPLES, LEAST_SCOUTS, ProfileOptions
from paceline.tasks.protocol import Sample, Task


def shared_out(total: int, shares: Sequence[float]) -> list[int]:
    """Whole numbers that add up to `total`, as near to the shares as possible (largest remainders).

    >>> shared_out(10, (0.6, 0.15, 0.25))
    [6, 2, 2]
    """
    exact = np.array(shares, dtype=np.float64) / np.sum(shares) * total
    counts = np.floor(exact + 1e-9).astype(int)
    order = np.argsort(-(exact - counts), kind="stable")
    counts[order[: total - counts.sum()]] += 1
    return counts.tolist()


def draw_samples(task: Task, options: ProfileOptions) -> list[Sample]:
    """The samples of all splits, in a random order fixed by the seed.

    Questions about one image stay side by side: batches then read it once for all of them.

    Raises:
        ProfileError: a task that gives fewer samples than asked for, repeats an id, labels a sample with another
            split, or shows one image in two splits.
    """
    samples: list[Sample] = []
    split_of_image: dict[str, str] = {}
    for split, count in zip(SPLITS, shared_out(options.samples, options.splits), strict=True):
        drawn = task.samples(split, count, options.seed) if count else []
        if len(drawn) != count:
            raise ProfileError(
                f"task {task.name}: split {split} gave {len(drawn)} samples, expected {count}; ask for fewer samples"
            )
        for sample in drawn:
            if sample.split != split:
                raise ProfileError(
                    f"task {task.name}: sample {sample.sample_id} of split {split} says it is of {sample.split!r}"
                )
            if split_of_image.setdefault(sample.image_hash, split) != split:
                raise ProfileError(
                    f"task {task.name}: the image of sample {sample.sample_id} is in the splits {split} and "
                    f"{split_of_image[sample.image_hash]}; split by image"
                )
        samples += drawn
    if len({sample.sample_id for sample in samples}) != len(samples):
        raise ProfileError(f"task {task.name}: sample ids repeat; give every sample its own")
    order = np.random.default_rng([options.seed, 1]).permutation(len(split_of_image))
    place = dict(zip(split_of_image, order.tolist(), strict=True))
    return sorted(samples, key=lambda sample: place[sample.image_hash])


def timed_positions(samples: Sequence[Sample], count: int) -> set[int]:
    """Positions of the samples to time: from each split its share, spread evenly over the sweep."""
    by_split = {split: [i for i, sample in enumerate(samples) if sample.split == split] for split in SPLITS}
    chosen: set[int] = set()
    shares = [len(positions) for positions in by_split.values()]
    for positions, places in zip(by_split.values(), shared_out(count, shares), strict=True):
        chosen |= {positions[place * len(positions) // places] for place in range(places)}
    return chosen


def scouts_first(samples: Sequence[Sample], options: ProfileOptions) -> tuple[list[Sample], int]:
    """All samples with the scouting ones in front, and how many these are.

    An adaptive plan chooses configurations by them: they are never of the test split, on which the choice is judged.

    Raises:
        ProfileError: too few training and validation samples.
    """
    fit = [sample for sample in samples if sample.split != SPLITS[2]]
    asked = options.scout_samples
    count = min(DEFAULT_SCOUT_SAMPLES, len(fit)) if asked is None else asked
    if not LEAST_SCOUTS <= count <= len(fit):
        raise ProfileError(
            f"scout_samples: got {count}, expected {LEAST_SCOUTS} or more of the {len(fit)} training and validation "
            f"samples; profile more samples or use plan lhs"
        )
    scouts = fit[:count]
    chosen = {sample.sample_id for sample in scouts}
    return scouts + [sample for sample in samples if sample.sample_id not in chosen], count


def timed_with_scouts(samples: Sequence[Sample], scouts: int, count: int) -> set[int]:
    """Positions of the samples to time when the first `scouts` of them choose: these get their share, or more if
    that were too few to compare configurations by."""
    rest = len(samples) - scouts
    share = max(round(count * scouts / len(samples)), LEAST_SCOUTS, count - rest)
    first = min(share, scouts, count)
    chosen = timed_positions(samples[:scouts], first)
    if rest:
        chosen |= {scouts + place for place in timed_positions(samples[scouts:], count - first)}
    return chosen


def sample_columns(samples: Sequence[Sample]) -> dict[str, np.ndarray]:
    """The columns of samples.parquet, text (samples,)."""
    return {
        name: np.array([getattr(sample, name) for sample in samples], dtype=object) for name in SAMPLE_FIELDS
    }
