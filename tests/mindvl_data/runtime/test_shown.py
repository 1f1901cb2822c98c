"""What is shown commands no terminal, whatever data, names and errors hold."""

import io
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.markdown import Markdown
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from mindvl_data.runtime.shown import CONTROL, SafeConsole, cleaned, exact
from mindvl_data.runtime.terminal import print_json

TITLE = "\x1b]0;owned\x07"
CLIPBOARD = "\x1b]52;c;ZXZpbA==\x07"
EVIL = f"a{TITLE}{CLIPBOARD}\x9b2J\r\x08b\u202ec"


def test_every_view_shows_control_characters_as_pictures() -> None:
    table = Table(EVIL, title=EVIL)
    table.add_row(EVIL)
    for view in (EVIL, Text(EVIL), Panel(Text(EVIL), title=EVIL, subtitle=EVIL), table, Markdown(EVIL)):
        file = io.StringIO()
        SafeConsole(file=file, force_terminal=True, width=200, markup=False, highlight=False).print(view)
        said = re.sub(r"\x1b\[[\d;]*m", "", file.getvalue())
        assert not CONTROL.search(said), said
        assert "owned" in said


@given(st.text())
def test_cleaned_text_has_no_control_character_and_keeps_the_rest(text: str) -> None:
    assert not CONTROL.search(cleaned(text))
    assert len(cleaned(text)) == len(text)
    assert json.loads(exact(json.dumps(text, ensure_ascii=False))) == text


def test_json_is_exact_and_commands_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({EVIL: EVIL})
    said = capsys.readouterr().out
    assert json.loads(said) == {EVIL: EVIL}
    assert not CONTROL.search(said)
