"""The formats that are rows: each from JSON, JSON Lines, compressed, and tables; what they accept and drop."""

import base64
import gzip
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from mindvl_data.pipeline import build
from mindvl_data.recipe import RecipeError, load_recipe
from mindvl_data.sources import Asked, SourceError
from mindvl_data.sources.files import FingerprintCache, source_files
from mindvl_data.steps.scan import Rules, image_files_changed
from tests.mindvl_data.packs import png
from tests.mindvl_data.sources.scanned import Scanned, read

Row = dict[str, Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    return tmp_path


def lines(rows: list[Row]) -> bytes:
    return "\n".join(json.dumps(row) for row in rows).encode()


def table(rows: list[Row]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=2)
    return file.getvalue()


def stream(rows: list[Row]) -> bytes:
    file, data = io.BytesIO(), pa.Table.from_pylist(rows)
    with pa.ipc.new_stream(file, data.schema) as writer:
        writer.write_table(data)
    return file.getvalue()


WRITERS: dict[str, Callable[[list[Row]], bytes]] = {
    "data.json": lambda rows: json.dumps(rows).encode(),
    "indented.json": lambda rows: b"\xef\xbb\xbf \n" + json.dumps(rows, indent=2).encode() + b"\n",
    "data.jsonl": lines,
    "data.ndjson": lines,
    "data.json.gz": lambda rows: gzip.compress(json.dumps(rows).encode()),
    "data.jsonl.zst": lambda rows: bytes(pa.compress(lines(rows), codec="zstd", asbytes=True)),
    "data.parquet": table,
    "data.arrow": stream,
}


def scanned(folder: Path, rows: list[Row], format_name: str, name: str = "data.jsonl", **more: Any) -> Scanned:
    (folder / name).write_bytes(WRITERS[name](rows))
    return read(folder / name, format_name, **more)


def shape(line: Row) -> list[tuple[int, str, str | None]]:
    return [(part["turn"], part["role"], part["text"]) for part in line["parts"]]


def said(who: str, text: Any) -> Row:
    return {"from": who, "value": text}


def told(role: str, content: Any) -> Row:
    return {"role": role, "content": content}


# One sample of every format, what its parts become, and how many images it has.
SAMPLES: dict[str, tuple[Row, list[tuple[int, str, str | None]]]] = {
    "sharegpt": (
        {"image": "1.png", "system": "be brief", "conversations": [said("human", "<image>see"), said("gpt", "yes")]},
        [(0, "system", "be brief"), (1, "user", None), (1, "user", "see"), (2, "assistant", "yes")],
    ),
    "messages": (
        {"images": ["1.png"], "messages": [told("user", "<image>see"), told("assistant", "yes")]},
        [(0, "user", None), (0, "user", "see"), (1, "assistant", "yes")],
    ),
    "query_response": (
        {"query": "see", "response": "yes", "images": ["1.png"], "history": [["before", "then"]], "system": "be"},
        [
            (0, "system", "be"),
            (1, "user", None),
            (1, "user", "before"),
            (2, "assistant", "then"),
            (3, "user", "see"),
            (4, "assistant", "yes"),
        ],
    ),
    "finevision": (
        {"images": [{"bytes": None, "path": "1.png"}], "texts": [{"user": "see", "assistant": "yes"}]},
        [(0, "user", None), (0, "user", "see"), (1, "assistant", "yes")],
    ),
    "captions": ({"image": "1.png", "caption": "a house"}, [(0, "caption", None), (0, "caption", "a house")]),
    "interleaved": (
        {"texts": ["before", None, "after"], "images": [None, "1.png", None]},
        [(0, "text", "before"), (1, "text", None), (2, "text", "after")],
    ),
    "text": ({"text": "only words"}, [(0, "text", "only words")]),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("format_name", SAMPLES)
def test_every_format_reads_every_container(folder: Path, format_name: str, name: str) -> None:
    row, parts = SAMPLES[format_name]
    found = scanned(folder, [row | {"id": "a"}, row | {"id": "b"}], format_name, name)
    assert found.drops == {}
    assert [shape(line) for line in found.kept] == [parts, parts]
    if format_name != "text":
        assert found.image(1) == png(1)
    if format_name != "finevision":
        assert [line["uid"] for line in found.kept] == ["a", "b"]


def one_by_one(folder: Path, format_name: str, rows: list[Row]) -> list[str]:
    """The reason for which each row is dropped, or `kept`."""
    found = scanned(folder, rows, format_name)
    return [found.drops[str(i)][0] if str(i) in found.drops else "kept" for i in range(len(rows))]


def test_sharegpt_roles_and_loss(folder: Path) -> None:
    chat = [said("human", "a"), said("gpt", "b")]
    rows: list[Row] = [
        {"conversation": chat},
        {"conversations": [*chat, said("observation", "tool")]},
        {"conversations": [*chat, said("function_call", "tool")]},
        {"conversations": [*chat, said("martian", "x")]},
        {"conversations": [chat[0], chat[1] | {"loss": False}]},
        {"conversations": [chat[0], chat[1] | {"loss": 0.0}]},
        {"conversations": [chat[0], chat[1] | {"loss": "no"}]},
        {"conversations": [said("human", "<image>")], "image": []},
        {"conversations": [said("human", "x")], "image": "1.png"},
        {"conversations": [said("human", "\ud800")]},
        {"conversations": [said("human", "<image><image>")], "images": ["1.png", {"path": "2.png"}]},
    ]
    assert one_by_one(folder, "sharegpt", rows) == [
        "kept",
        "unsupported_role",
        "unsupported_role",
        "malformed_record",
        "kept",
        "kept",
        "malformed_record",
        "image_count_mismatch",
        "image_count_mismatch",
        "invalid_utf8",
        "kept",
    ]


def test_sharegpt_in_pairs(folder: Path) -> None:
    pairs = [{"human": "<image>see", "assistant": "yes"}, {"human": "and?", "assistant": "no"}]
    found = scanned(folder, [{"conversation": pairs, "images": ["1.png"], "system": "be"}], "sharegpt")
    turns = [(0, "system", "be"), (1, "user", None), (1, "user", "see"), (2, "assistant", "yes")]
    assert shape(found.kept[0]) == [*turns, (3, "user", "and?"), (4, "assistant", "no")]
    rows = [{"conversation": [{"human": "q"}]}, {"conversation": [{"human": "q", "assistant": None}]}]
    assert one_by_one(folder, "sharegpt", rows) == ["malformed_record"] * 2


def test_messages_with_images_beside_them(folder: Path) -> None:
    rows: list[Row] = [
        {"images": ["1.png", "2.png"], "messages": [told("user", "<image> or <image>?"), told("assistant", "b")]},
        {"images": ["1.png"], "messages": [told("system", "s"), told("user", "what?"), told("assistant", "b")]},
        {"images": ["1.png"], "messages": [told("user", "<image><image>")]},
        {"messages": [told("user", "<image> is text")]},
        {"messages": [told("user", "x"), told("tool", "y")]},
        {"messages": [told("user", "x"), told("assistant", None) | {"tool_calls": [{}]}]},
        {"messages": [told("user", 3)]},
        {"videos": ["a.mp4"], "messages": [told("user", "x")]},
    ]
    assert one_by_one(folder, "messages", rows) == [
        "kept",
        "kept",
        "image_count_mismatch",
        "kept",
        "kept",
        "malformed_record",
        "malformed_record",
        "missing_image",
    ]
    placed = scanned(folder, rows[1:2], "messages").kept[0]
    assert shape(placed) == [(0, "system", "s"), (1, "user", None), (1, "user", "what?"), (2, "assistant", "b")]


NULLS = {"text": None, "image": None, "image_url": None}


@pytest.mark.parametrize("name", ["data.jsonl", "data.parquet"])
def test_blocks_are_places_of_the_images_beside_them_and_nulls_are_absent(folder: Path, name: str) -> None:
    def file(number: int) -> Row:
        return {"bytes": None, "path": f"{number}.png"}

    place, empty = {**NULLS, "type": "image", "index": None}, {"bytes": None, "path": None}
    text = {**NULLS, "type": "text", "text": "what is <image>?", "index": None}
    answer = told("assistant", [{**text, "text": "that"}])
    own = {**NULLS, "type": "image_url", "image": None, "image_url": {"url": "2.png"}, "index": None}
    rows = [
        {"messages": [told("user", [place, text, place]), answer], "images": [file(0), file(1)]},
        {
            "messages": [told("user", [{**place, "index": 1}, {**place, "index": 0}, text]), answer],
            "images": [file(0), file(1)],
        },
        {"messages": [told("user", [own, text]), answer], "images": None},
        {"messages": [told("user", [own, place]), answer], "images": [file(0)]},
        {"messages": [told("user", [place, place]), answer], "images": [file(0)]},
        {"messages": [told("user", [place, text]), answer], "images": [empty]},
    ]
    found = scanned(folder, rows, "messages", name)
    order = [[line["uri"] for line in sample["images"]] for sample in found.kept]
    assert order == [["0.png", "1.png"], ["1.png", "0.png"], ["2.png"], ["2.png", "0.png"]]
    assert [part[2] for part in shape(found.kept[0])] == [None, "what is <image>?", None, "that"]
    assert [drop[0] for drop in found.drops.values()] == ["image_count_mismatch", "missing_image"]


def test_other_names_that_are_null_or_empty_are_absent(folder: Path) -> None:
    turns = [said("human", "what?"), said("gpt", "that")]
    pairs = [{"from": None, "value": None, "human": "what?", "assistant": "that"}]
    rows = [
        {"conversations": None, "conversation": turns, "image": ""},
        {"conversations": pairs, "images": [], "image": None},
        {"conversations": json.dumps(turns), "images": []},
        {"conversations": [said("human", "<image>\nwhat?"), said("gpt", "that")], "images": [], "image": "0.png"},
        {"conversations": "what? that", "image": "0.png"},
    ]
    found = scanned(folder, rows, "sharegpt")
    assert [len(line["images"]) for line in found.kept] == [0, 0, 0, 1]
    assert {tuple(part[2] for part in shape(line)) for line in found.kept[:3]} == {("what?", "that")}
    assert [drop[0] for drop in found.drops.values()] == ["malformed_record"]


def test_a_literal_place_beside_pictures_is_their_place_or_named(folder: Path) -> None:
    pictures = [{"path": f"{number}.png"} for number in range(2)]
    rows = [
        {"texts": [{"user": "first <image>, then <image>?", "assistant": "yes"}], "images": pictures},
        {"texts": [{"user": "write <image>", "assistant": "<image>"}], "images": []},
        {"texts": [{"user": "one <image>?", "assistant": "yes"}], "images": pictures},
    ]
    found = scanned(folder, rows, "finevision")
    texts = [[part[2] for part in shape(line)] for line in found.kept]
    assert texts == [["first ", None, ", then ", None, "?", "yes"], ["write <image>", "<image>"]]
    assert [drop[0] for drop in found.drops.values()] == ["image_count_mismatch"]
    captions = scanned(folder, [{"image": "0.png", "caption": "<image>\na dog"}], "captions")
    assert [part[2] for part in shape(captions.kept[0])] == [None, "\na dog"]


def test_paths_of_images_in_the_forms_that_people_have(folder: Path) -> None:
    data, pages = png(0), folder / "pages"
    (pages / "a b").mkdir(parents=True)
    (pages / "a b" / "0.png").write_bytes(data)
    os.mkfifo(pages / "pipe.png")
    encoded = base64.b64encode(data).decode()
    paths = [
        "a b/0.png",
        str(pages / "a b" / "0.png"),
        f"file://{pages}/a%20b/0.png",
        encoded,
        f"{encoded[:76]}\n{encoded[76:]}",
    ]
    wrong = ["a b", ".", "pipe.png", str(folder / "0.png"), f"file://{folder}/0.png", "x" * 5000, "y" * 3000, "/9j/*"]
    rows = [{"image": path, "caption": "x"} for path in [*paths, *wrong]]
    found = scanned(folder, rows, "captions", images=str(pages))
    assert found.keys == [str(number) for number in range(len(paths))]
    assert [found.image(number) for number in (0, 3, 4)] == [data] * 3
    assert {line["images"][0]["uri"] for line in found.kept[:3]} == {f"{pages}/a b/0.png"}
    reasons = [found.drops[str(number)][0] for number in range(len(paths), len(rows))]
    assert reasons == ["missing_image"] * 3 + ["outside_root"] * 2 + [
        "unreadable_image",
        "missing_image",
        "outside_root",
    ]
    assert max(len(detail) for _, detail in found.drops.values()) <= 200
    assert not image_files_changed(found.task), "what is no file is not there, then as now"


def test_links_within_a_hub_cache_are_followed_and_no_others(tmp_path: Path) -> None:
    snapshot = tmp_path / "datasets--org--set" / "snapshots" / "abc"
    blobs = tmp_path / "datasets--org--set" / "blobs"
    for place in (snapshot, blobs):
        place.mkdir(parents=True)
    (blobs / "f00").write_bytes(png(0))
    (tmp_path / "secret.png").write_bytes(png(1))
    (snapshot / "0.png").symlink_to("../../blobs/f00")
    (snapshot / "1.png").symlink_to("../../../secret.png")
    found = scanned(snapshot, [{"image": f"{number}.png", "caption": "x"} for number in range(2)], "captions")
    assert found.keys == ["0"]
    assert found.drops["1"][0] == "outside_root"


def test_captions_interleaved_and_text_drop_what_they_cannot_be(folder: Path) -> None:
    captions: list[Row] = [{"caption": "no image"}, {"image": "1.png"}, {"image": "1.png", "text": "t"}]
    assert one_by_one(folder, "captions", captions) == ["missing_image", "malformed_record", "kept"]
    documents: list[Row] = [
        {"texts": ["a"], "images": [None, "1.png"]},
        {"texts": ["a"], "images": ["1.png"]},
        {"texts": [None], "images": [None]},
        {"texts": "a", "images": []},
    ]
    reasons = ["image_count_mismatch", "malformed_record", "malformed_record", "malformed_record"]
    assert one_by_one(folder, "interleaved", documents) == reasons
    assert one_by_one(folder, "text", [{"text": 3}, {"content": "x"}]) == ["malformed_record", "kept"]


def test_query_response_drops_what_is_no_pair(folder: Path) -> None:
    rows: list[Row] = [{"query": "q"}, {"query": "q", "response": "r", "history": ["x"]}, {"query": 1, "response": "r"}]
    assert one_by_one(folder, "query_response", rows) == ["malformed_record"] * 3


def test_image_bytes_of_tables_are_kept_in_the_build(folder: Path) -> None:
    rows = [
        {"image": {"bytes": png(1), "path": "x"}, "caption": "a"},
        {"image": {"bytes": b"", "path": None}, "caption": "b"},
    ]
    found = scanned(folder, rows, "captions", "data.parquet")
    assert (found.image(0), found.media) == (png(1), png(1))
    assert found.drops["1"][0] == "missing_image"
    raw = scanned(folder, [{"image": png(2), "caption": "a"}], "captions", "data.parquet")
    assert raw.image(0) == png(2)


@pytest.mark.parametrize("name", ["data.jsonl", "data.parquet"])
def test_a_field_map_covers_renamed_columns_and_filters_may_name_any_single_value(folder: Path, name: str) -> None:
    rows = [
        {"picture": "1.png", "alt_text": "a", "similarity": 0.5, "n": 1, "tags": ["x"], "safe": True, "note": "ä"},
        {"picture": "2.png", "alt_text": "b", "similarity": 1.5, "n": None, "tags": [], "safe": False, "note": None},
    ]
    asked = Asked(
        {"image": "picture", "caption": "alt_text", "clip": "similarity"}, ("clip", "n", "none", "note", "safe")
    )
    found = scanned(folder, rows, "captions", name, asked=asked)
    assert found.drops == {}
    assert found.data == [
        {"clip": 0.5, "n": 1, "none": None, "note": "ä", "safe": True},
        {"clip": 1.5, "n": None, "none": None, "note": None, "safe": False},
    ]


def test_values_of_mixed_kinds_become_texts(folder: Path) -> None:
    rows: list[Row] = [{"text": "a", "x": 1}, {"text": "b", "x": "two"}, {"text": "c", "x": 2**70}]
    found = scanned(folder, rows * 600, "text", asked=Asked(keep=("x",)))
    assert [line["x"] for line in found.data[:3]] == ["1", "two", str(2**70)]
    assert len(found.data) == 1800


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("data.json.gz", b"not gzip", "cannot be read as gzip"),
        ("data.jsonl.gz", gzip.compress(b'{"text": "a"}' * 9999)[:-30], "cannot be read as gzip"),
        ("data.jsonl.zst", b"not zstd", "cannot be read as zstd"),
        ("data.parquet", b"PAR1", "cannot be read as a Parquet file"),
        ("data.arrow", b"ARROW1", "cannot be read as an Arrow file"),
        ("data.mds", b"\xff\xff\xff\xff..", "cannot be read as an MDS shard"),
        ("data.txt", b"text", "rows are read from files that end in"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(folder: Path, name: str, content: bytes, words: str) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(SourceError, match=f"{name}.*{words}"):
        read(folder / name, "text")


def test_a_table_without_a_column_of_the_format_is_named(folder: Path) -> None:
    with pytest.raises(SourceError, match="has none of the columns content, id, text, uid; it has x"):
        scanned(folder, [{"x": 1}], "text", "data.parquet")


def test_text_that_is_not_utf8_is_dropped_or_replaced_in_every_container(folder: Path) -> None:
    (folder / "data.jsonl").write_bytes(b'{"text": "good"}\n{"text": "b\xff\xfed"}\n{"text": "\\ud800"}')
    (folder / "data.json").write_bytes(b'[{"text": "good"},{"text": "b\xff\xfed"},{"text": "\\ud800"}]')
    column = pa.array([b"good", b"b\xff\xfed", b"\xff"]).view(pa.string())
    pq.write_table(pa.table({"text": column}), folder / "data.parquet")
    for name in ("data.jsonl", "data.json", "data.parquet"):
        found = read(folder / name, "text")
        assert (found.keys, [reason for reason, _ in found.drops.values()]) == (["0"], ["invalid_utf8"] * 2)
        replaced = read(folder / name, "text", rules=Rules(replace_invalid_utf8=True)).kept
        texts = [(line["parts"][0]["text"], line["replaced"]) for line in replaced]
        assert texts == [("good", 0), ("b\ufffd\ufffdd", 2), ("\ufffd", 1)]


def uid(number: int) -> str:
    return f"{number:032x}"


def test_a_uid_subset_selects_and_a_uid_listed_twice_means_twice(folder: Path) -> None:
    listed = sorted([3, 3, 2**64 + 5, 2**127, 7])
    halves = [(number >> 64, number & (2**64 - 1)) for number in listed]
    np.save(folder / "subset.npy", np.array(halves, "u8,u8"))
    uids = [uid(1), uid(3), uid(2**64 + 5), uid(5), uid(2**127), "short", uid(2**128 - 1)]
    rows = [{"text": str(number), "uid": name} for number, name in enumerate(uids)]
    found = scanned(folder, [*rows, {"text": "none"}], "text", subset=folder / "subset.npy")
    assert found.keys == ["1", "1-1", "2", "4"]
    assert {reason for reason, _ in found.drops.values()} == {"not_in_subset"}
    for wrong in (np.array(halves[::-1], "u8,u8"), np.array([1, 2])):
        np.save(folder / "wrong.npy", wrong)
        with pytest.raises(SourceError, match=r"wrong\.npy"):
            scanned(folder, rows, "text", subset=folder / "wrong.npy")


def test_hugging_face_datasets_saved_to_disk(folder: Path) -> None:
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    rows = {"image": [str(folder / f"{i}.png") for i in range(3)], "caption": ["a", "b", "c"]}
    data = datasets.Dataset.from_dict(rows, features=features)
    data = data.map(lambda row: row, features=features)
    data.save_to_disk(str(folder / "saved"), num_shards=2)
    files = source_files(("saved",), ("saved",), None, folder, FingerprintCache())
    assert [file.path for file in files] == ["saved/data-00000-of-00002.arrow", "saved/data-00001-of-00002.arrow"]
    found = [read(Path(file.place), "captions") for file in files]
    assert [line["parts"][1]["text"] for scan in found for line in scan.kept] == ["a", "b", "c"]
    assert found[0].image(0) == png(0)
    datasets.DatasetDict({"train": data}).save_to_disk(str(folder / "splits"))
    with pytest.raises(SourceError, match=r"a folder of splits \(train\): name one"):
        source_files(("splits",), ("splits",), None, folder, FingerprintCache())
    assert source_files(("splits/train",), ("splits/train",), None, folder, FingerprintCache())


def test_filters_name_fields_of_the_data_in_a_build(recipe_folder: Path, tmp_path: Path) -> None:
    path = recipe_folder / "recipe.yaml"
    raw = yaml.safe_load(path.read_text())
    raw["filters"].append({"name": "formatted", "where": "formatting_min >= 5", "sources": ["vqa"]})
    path.write_text(yaml.safe_dump(raw))
    report = build(load_recipe(path), tmp_path / "out", dry_run=True)
    (line,) = [line for line in report.funnel if line.step == "filter: formatted" and line.source == "vqa"]
    ratings = pq.read_table(recipe_folder / "data" / "vqa.parquet")["formatting_min"].to_pylist()
    assert 0 < line.left == sum(rating >= 5 for rating in ratings) < line.entered
    raw["filters"][-1]["where"] = "formating_min >= 5"
    path.write_text(yaml.safe_dump(raw))
    with pytest.raises(RecipeError, match=r"filters\.2\.where: there is no column 'formating_min' in any sample"):
        build(load_recipe(path), tmp_path / "out", dry_run=True)
