"""Settings for every test."""

from hypothesis import settings

# The same examples on every run, and no limit on one example's time: machines that run tests are busy.
settings.register_profile("paceline", deadline=None, derandomize=True)
settings.load_profile("paceline")
