"""Peek: the format is guessed by who makes samples of it, and the YAML it prints is a recipe's source."""

from pathlib import Path

import pytest
import yaml

from mindvl_data.inspect.peek import PeekError, described, peek, recipe_lines
from mindvl_data.recipe import Source
from mindvl_data.vision import Resolution
from tests.conftest import QUICKSTART


@pytest.mark.parametrize(
    ("name", "reader", "images"),
    [
        ("captions-000.tar", "webdataset", 1),
        ("vqa.parquet", "finevision", 1),
        ("documents/documents.json", "llava", 1),
        ("text.jsonl", "messages", 0),
    ],
)
def test_each_format_of_the_quickstart_is_guessed(name: str, reader: str, images: int) -> None:
    look = peek(QUICKSTART / "data" / name)
    assert (look.format, look.problems.total()) == (reader, 0)
    sample = described(look.samples[0], Resolution())
    assert len(sample["images"]) == images
    assert all(image["tokens"] == image["patches"][0] * image["patches"][1] // 4 for image in sample["images"])
    (source,) = yaml.safe_load(recipe_lines(look))["sources"].values()
    assert Source.model_validate(source).format == reader


def test_what_is_wrong_is_shown_beside_what_is_right(tmp_path: Path) -> None:
    good = (QUICKSTART / "data" / "text.jsonl").read_text().splitlines()[:3]
    (tmp_path / "x.jsonl").write_text("\n".join([good[0], "{broken", good[1]]))
    look = peek(tmp_path / "x.jsonl")
    assert (len(look.samples), look.problems) == (2, {"malformed_record": 1})


def test_a_file_that_nobody_reads_says_what_each_reader_found(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\x00nothing")
    with pytest.raises(PeekError, match=r"webdataset: 1 malformed_record"):
        peek(tmp_path / "x")
    with pytest.raises(PeekError, match="no such file"):
        peek(tmp_path / "none")
