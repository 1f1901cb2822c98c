"""CSV and TSV: every row is a record or says why not, however its file was written."""

from pathlib import Path

import pytest

from mindvl_data.inspect.peek import peek
from mindvl_data.sources import Failed, Sample
from tests.mindvl_data.packs import png


def records(path: Path, text: bytes) -> list[tuple[str, str | None, str]]:
    """(key, text, why it is none) of every row, read as captions."""
    (path / "a.png").write_bytes(png(0, (40, 40)))
    file = path / "list.csv"
    file.write_bytes(text)
    found = []
    for record in peek(str(file)).records:
        assert isinstance(record, Sample | Failed)
        if isinstance(record, Sample):
            assert len(record.images) == 1
            found.append((record.key, record.parts[-1].text, ""))
        else:
            found.append((record.key, None, record.drop.reason))
    return found


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_quotes_lines_in_cells_and_marks_of_spreadsheets(tmp_path: Path, delimiter: str) -> None:
    lines = ["file_name,caption", 'a.png,"a ""boat"", on\nthe lake"', "a.png,一条船"]
    text = "\r\n".join(line.replace(",", delimiter, 1) for line in lines)
    assert records(tmp_path, b"\xef\xbb\xbf" + text.encode()) == [
        ("0", 'a "boat", on\nthe lake', ""),
        ("1", "一条船", ""),
    ]


def test_rows_that_are_none_say_why_and_keep_the_numbers_of_the_others(tmp_path: Path) -> None:
    text = b"image,caption\na.png,one\na.png,two,too many\n\na.png,\ngone.png,four\na.png,\xff\na.png,six\n"
    assert records(tmp_path, text) == [
        ("0", "one", ""),
        ("1", None, "malformed_record"),
        ("3", None, "malformed_record"),
        ("4", None, "missing_image"),
        ("5", None, "invalid_utf8"),
        ("6", "six", ""),
    ]


def test_a_cell_that_never_ends_is_one_bad_row(tmp_path: Path) -> None:
    found = records(tmp_path, b'image,caption\na.png,one\na.png,"' + b"x" * 200_000)
    assert [(key, why) for key, _, why in found] == [("0", ""), ("1", "malformed_record")]
