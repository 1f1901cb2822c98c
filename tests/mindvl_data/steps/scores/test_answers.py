"""What models answered: found by content, kept through a kill."""

from pathlib import Path

import polars as pl

from mindvl_data.steps.scores.answers import Answers

SCHEMA = {"value": pl.Float64(), "reason": pl.String()}


def answered(keys: str, value: float) -> pl.DataFrame:
    lines = [{"key": key.encode(), "value": value, "reason": None} for key in keys]
    return pl.DataFrame(lines, schema={"key": pl.Binary(), **SCHEMA})


def keys(text: str) -> pl.Series:
    return pl.Series("key", [key.encode() for key in text], dtype=pl.Binary)


def test_answers_are_found_by_key_whatever_file_they_lie_in(tmp_path: Path) -> None:
    store = Answers(tmp_path, SCHEMA)
    for number, text in enumerate(("ab", "c", "de")):
        store.add(answered(text, number))
        store.flush()
    for opened in (store, Answers(tmp_path, SCHEMA)):
        assert len(opened) == 5
        assert opened.of(keys("eaxca"), ["value"])["value"].to_list() == [2.0, 0.0, None, 1.0, 0.0]
        assert opened.of(keys(""), ["value", "reason"]).schema == pl.Schema(SCHEMA)
        assert opened.unknown(keys("axxbyx")).tolist() == [1, 4]


def test_what_was_not_flushed_is_asked_again_and_nothing_else(tmp_path: Path) -> None:
    store = Answers(tmp_path, SCHEMA)
    store.add(answered("ab", 1))
    store.flush()
    store.add(answered("cd", 2))
    (tmp_path / "000001.partial").write_bytes(b"half a file")
    again = Answers(tmp_path, SCHEMA)
    assert again.unknown(keys("abcd")).tolist() == [2, 3]
    again.add(answered("cd", 3))
    again.flush()
    assert Answers(tmp_path, SCHEMA).of(keys("abcd"), ["value"])["value"].to_list() == [1, 1, 3, 3]
