"""Peek: the format is guessed by who makes samples of it, and the YAML it prints is a recipe's source."""

import io
import json
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from mindvl_data.inspect.peek import PeekError, described, peek, recipe_lines, view
from mindvl_data.recipe import Source
from mindvl_data.vision import Resolution
from tests.conftest import QUICKSTART
from tests.mindvl_data.packs import png


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


@pytest.mark.parametrize(("scale", "extent"), [("pixels", (300, 2000)), ("unit", (1, 1)), ("thousand", (1000, 1000))])
def test_boxes_are_found_and_their_scale_guessed(tmp_path: Path, scale: str, extent: tuple[int, int]) -> None:
    (tmp_path / "p.png").write_bytes(png(1, (300, 2000)))
    box = [0.9 * side for side in extent for _ in range(2)][::2]
    rows = [
        {
            "conversations": [{"from": "human", "value": "<image>where?"}, {"from": "gpt", "value": text}],
            "image": "p.png",
        }
        for text in ("in words", json.dumps({"bbox_2d": [0, 0, *box]}))
    ]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    look = peek(tmp_path / "x.jsonl")
    assert look.scale == scale
    (source,) = yaml.safe_load(recipe_lines(look))["sources"].values()
    assert Source.model_validate(source).boxes is not None
    assert source["boxes"] == {"from": scale, "write": "resized"}
    console = Console(width=300, record=True, file=io.StringIO())
    console.print(view(look, 1, Resolution()))
    assert "There are boxes in the texts" in console.export_text()


def test_boxes_beside_the_texts_are_put_into_them(tmp_path: Path) -> None:
    (tmp_path / "p.png").write_bytes(png(1, (300, 200)))
    row = {
        "messages": [
            {"role": "user", "content": "<image>Find <ref-object>"},
            {"role": "assistant", "content": "<bbox>"},
        ],
        "images": ["p.png"],
        "objects": {"ref": ["a dog"], "bbox": [[1, 2, 290.5, 190]]},
    }
    (tmp_path / "x.jsonl").write_text(json.dumps(row))
    look = peek(tmp_path / "x.jsonl")
    assert (look.format, look.scale) == ("messages", "pixels")
    texts = [turn["text"] for turn in described(look.samples[0], Resolution())["turns"]]
    assert texts == ["[image 1]Find a dog", "[1, 2, 290.5, 190]"]


def test_a_text_that_is_not_utf8_is_a_drop_and_a_place_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(png(0))
    texts = ["\\ud83d half", "an <image> as text"]
    lines = [f'{{"messages": [{{"role": "user", "content": "{text}"}}]}}' for text in texts]
    placed = [{"type": "image", "image": "0.png"}, {"type": "text", "text": "<image>?"}]
    lines.append(json.dumps({"messages": [{"role": "user", "content": placed}]}))
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    look = peek(tmp_path / "x.jsonl")
    assert look.problems == {"invalid_utf8": 1}
    shown = [described(sample, Resolution())["turns"][0]["text"] for sample in look.samples]
    assert shown == ["an <image> as text", "[image 1]<image>?"]


def test_a_folder_and_a_glob_are_looked_at_by_their_first_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(QUICKSTART)
    look = peek("data/captions-*.tar")
    assert (look.format, look.path) == ("webdataset", "data/captions-*.tar")
    look = peek("data/documents")
    assert (look.format, look.path) == ("llava", "data/documents/documents.json")
    url = peek(f"file://{(QUICKSTART / 'data' / 'text.jsonl').absolute()}")
    assert url.format == "messages"
    assert "file:///" in recipe_lines(url)
    with pytest.raises(PeekError, match=r"data/none\.tar: no such file$"):
        peek("data/none.tar")


def test_the_fields_that_filters_can_name_are_listed() -> None:
    assert peek(QUICKSTART / "data" / "captions-000.tar").fields[:4] == ["uid", "text", "key", "original_width"]
    assert "relevance_min" in (fields := peek(QUICKSTART / "data" / "vqa.parquet").fields)
    assert "images" not in fields
    assert peek(QUICKSTART / "data" / "documents" / "documents.json").fields == ["id", "image", "width", "height"]


def test_a_long_conversation_is_cut_to_a_screen(tmp_path: Path) -> None:
    turns = [{"role": role, "content": "word " * 500} for _ in range(20) for role in ("user", "assistant")]
    (tmp_path / "long.jsonl").write_text(json.dumps({"messages": turns}))
    shown = io.StringIO()
    Console(width=100, file=shown).print(view(peek(tmp_path / "long.jsonl"), 1, Resolution()))
    assert "and 32 more turns" in shown.getvalue()
    assert shown.getvalue().count("\n") < 50
