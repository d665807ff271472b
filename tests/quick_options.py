"""Training options that take a second: enough to learn something, too little to learn it well."""

from dataclasses import replace

from paceline.learning.reference.options import (
    ForestOptions,
    LightgbmOptions,
    OutcomeNetworkOptions,
    ReferenceOptions,
    ResidualOptions,
    StudentOptions,
)

QUICK_REFERENCE = ReferenceOptions(
    folds=2,
    repeats=1,
    lightgbm=LightgbmOptions(trees=10, learning_rate=0.2, leaves=7),
    forest=ForestOptions(trees=10),
    network=OutcomeNetworkOptions(members=1, hidden=32, epochs=10),
    residual=ResidualOptions(epochs=3),
    student=StudentOptions(members=1, hidden=32, steps=300, epochs=1, synthetic_per_sample=2),
)
HASTY_REFERENCE = replace(QUICK_REFERENCE, student=replace(QUICK_REFERENCE.student, steps=40))
"""Likewise, where it does not matter what the student has learned."""
QUICK_SETTINGS = {
    "reference.repeats": 1,
    "reference.lightgbm.trees": 10,
    "reference.forest.trees": 10,
    "reference.network.epochs": 5,
    "reference.residual.epochs": 2,
    "reference.student.steps": 100,
}
QUICK_WORDS = [word for name, value in QUICK_SETTINGS.items() for word in ("--set", f"{name}={value}")]
"""Likewise, on the command line."""
