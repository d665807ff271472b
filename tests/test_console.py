"""Text of others does not steer the terminal that it is printed on."""

import io

import pytest
from rich.table import Table
from rich.text import Text

from paceline.cli.console import SafeConsole
from paceline.cli.output import emit, say, shown

EVIL = "\x1b]0;title\x07\x1b[2Jcounting\x9b31m"


def test_what_steers_is_drawn_and_the_rest_stays():
    assert shown(EVIL) == "␛]0;title␇␛[2Jcounting\ufffd31m"
    assert shown("Zählen\tüber\nzwei 行 🙂") == "Zählen\tüber\nzwei 行 🙂"


@pytest.mark.parametrize("colour", [True, False])
def test_tables_show_it(colour):
    file = io.StringIO()
    table = Table("kind")
    table.add_row(Text(EVIL, style="bold"))
    SafeConsole(file=file, force_terminal=colour, no_color=False, width=80).print(table)
    text = file.getvalue()
    assert "␛[2Jcounting" in text
    assert "\x1b[2J" not in text
    assert "\x9b" not in text
    assert ("\x1b[1m" in text) == colour  # rich's own


def test_results_and_messages_show_it(capsys):
    table = Table("kind")
    table.add_row(EVIL)
    emit({}, [EVIL, table], as_json=False)
    say(EVIL)
    seen = capsys.readouterr()
    for text in (seen.out, seen.err):
        assert "\x1b" not in text
        assert "counting" in text
    emit({"kind": EVIL}, [], as_json=True)
    assert '"\\u001b]0;title' in capsys.readouterr().out
