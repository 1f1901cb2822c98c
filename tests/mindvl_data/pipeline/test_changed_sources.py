"""Sources whose bytes change without a trace in what a listing shows of them."""

import json
import os
from pathlib import Path

import pytest
import yaml

from mindvl_data.pipeline import build
from mindvl_data.recipe import LoadedRecipe, load_recipe
from mindvl_data.sources import fingerprint
from tests.conftest import QUICKSTART

RECIPE = {
    "name": "changed",
    "tokenizer": str(QUICKSTART / "tokenizer.json"),
    "chat_template": "chatml",
    "sources": {"texts": {"path": "texts.jsonl", "format": "text", "kind": "text", "licence": "CC0"}},
    "stages": {"only": {"seq_len": 64, "budget": {"epochs": 1}, "mixture": {"texts": 1.0}}},
}


def write(path: Path, word: str) -> None:
    """The same size and time, whatever the word (of four letters)."""
    path.write_text("".join(json.dumps({"text": f"{word} {i:04}"}) + "\n" for i in range(64)))
    os.utime(path, ns=(10**18, 10**18))


@pytest.fixture
def loaded(tmp_path: Path) -> LoadedRecipe:
    write(tmp_path / "texts.jsonl", "blue")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    return load_recipe(tmp_path / "recipe.yaml")


def test_bytes_that_change_under_one_size_and_time_are_noticed(loaded: LoadedRecipe, tmp_path: Path) -> None:
    assert build(loaded, tmp_path / "out").work["scan"] == 1
    assert build(loaded, tmp_path / "out").work["scan"] == 0
    write(tmp_path / "texts.jsonl", "grey")
    again = build(loaded, tmp_path / "out")
    assert (again.work["scan"], [stage.state for stage in again.stages]) == (1, ["built"])


def test_rehash_reads_all_of_what_looks_unchanged(
    loaded: LoadedRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that gives other bytes leaves no trace: here the stamp is blind, and the file counts as a large one."""
    monkeypatch.setattr(fingerprint, "WHOLE_HASH_BYTES", 0)
    monkeypatch.setattr(fingerprint, "WINDOW_BYTES", 1)
    monkeypatch.setattr(fingerprint, "stamp", lambda path, info: "blind")
    monkeypatch.setattr("mindvl_data.sources.files.stamp", lambda path, info: "blind")
    monkeypatch.setattr("mindvl_data.sources.source_file.stamp", lambda path, info: "blind")
    build(loaded, tmp_path / "out")
    write(tmp_path / "texts.jsonl", "grey")
    assert build(loaded, tmp_path / "out").work.total() == 0
    rehashed = build(loaded, tmp_path / "out", rehash=True)
    assert (rehashed.work["scan"], [stage.state for stage in rehashed.stages]) == (1, ["built"])
    assert build(loaded, tmp_path / "out").work.total() == 0, "and what was found out is kept"
