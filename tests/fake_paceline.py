"""`python fake_paceline.py ARGS`: the command in a process of its own, on a fake model that takes its time."""

import pytest

from command_line import SleepingModel, put_fakes
from paceline.cli.app import main

if __name__ == "__main__":
    put_fakes(pytest.MonkeyPatch(), SleepingModel())
    main()
