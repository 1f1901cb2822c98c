"""Whatever lies in a source: no crash, no hang, kept + dropped = found, and the same in any order of its parts."""

import bz2
import contextlib
import io
import json
import struct
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from mindvl_data.recipe import Boxes
from mindvl_data.sources import Asked, SourceError
from mindvl_data.sources.unpacked import MDS_CODECS as CODECS
from mindvl_data.steps.scan import Rules
from mindvl_data.tables.schema import BOXES, REASONS, Part
from mindvl_data.tokenise.grounding import BadBox, grounded
from mindvl_data.vision import Resolution
from tests.mindvl_data.packs import png
from tests.mindvl_data.sources.scanned import Scanned, read

FIXTURES = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def jpeg() -> bytes:
    file = io.BytesIO()
    Image.effect_noise((40, 30), 50).save(file, "JPEG")
    return file.getvalue()


SOUND = [png(0), png(1, (8, 90)), jpeg()]


@st.composite
def images(draw: st.DrawFn) -> bytes:
    """A sound image, or one that is cut, or has bytes changed, or is none."""
    data = bytearray(draw(st.sampled_from(SOUND)))
    for place in draw(st.lists(st.integers(0, 200), max_size=3)):
        data[place % len(data)] ^= draw(st.integers(1, 255))
    return bytes(data[: draw(st.sampled_from([len(data), len(data) // 2, 30, 0]))])


WORDS = st.text(max_size=12) | st.just("<image>") | st.just("see <image>")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["text", "uid", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)
ENCODED = JSON.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=30)
MEMBERS = st.dictionaries(
    st.tuples(st.sampled_from(["a", "b", "c/d", "é"]), st.sampled_from(["jpg", "0.png", "txt", "json", "mp4", ""])),
    images() | ENCODED,
    max_size=10,
)


def write_tar(path: Path, members: Sequence[tuple[tuple[str, str], bytes]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for (key, suffix), data in members:
            info = tarfile.TarInfo(f"{key}.{suffix}" if suffix else key)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def outcomes(found: Scanned) -> dict[str, Any]:
    """What became of every record, without where it lay."""
    kept = {
        line["key"]: (line["uid"], line["text_hash"], line["pixels"], sorted(i["sha256"] for i in line["images"]))
        for line in found.kept
    }
    return kept | {key: reason for key, (reason, _) in found.drops.items()}


@given(members=MEMBERS, order=st.randoms(use_true_random=False), decode=st.booleans())
@FIXTURES
def test_any_tar_in_any_order_of_its_members(tmp_path: Path, members: Any, order: Any, decode: bool) -> None:
    pairs = list(members.items())
    rules, asked = Rules(decode=decode), Asked(keep=("x",))
    found = read(write_tar(tmp_path / "x.tar", pairs), "webdataset", rules=rules, digest=True, asked=asked)
    assert found.found == len({key for key, _ in members})
    assert {reason for reason, _ in found.drops.values()} <= set(REASONS)
    order.shuffle(pairs)
    shuffled = read(write_tar(tmp_path / "x.tar", pairs), "webdataset", rules=rules, digest=True, asked=asked)
    if all(sum(name.endswith(("jpg", "png")) for k, name in members if k == key) < 2 for key, _ in members):
        assert outcomes(shuffled).keys() == outcomes(found).keys()
        assert {key for key, value in outcomes(shuffled).items() if value != outcomes(found)[key]} == set()


WORDS_OF_FORMATS = (
    "conversations messages from value role content image images texts user assistant query response history text "
    "caption type id uid loss system bytes path url"
)
FIELDS = st.sampled_from(WORDS_OF_FORMATS.split())
PLAIN = (
    st.none() | st.booleans() | st.integers() | WORDS | st.sampled_from(["human", "gpt", "user", "assistant", "a.png"])
)
ROWS = st.dictionaries(
    FIELDS,
    st.recursive(
        PLAIN,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS, inner, max_size=4),
        max_leaves=10,
    ),
    max_size=5,
)
FORMATS = ["sharegpt", "messages", "query_response", "finevision", "captions", "interleaved", "text"]


@pytest.mark.parametrize("format_name", FORMATS)
@given(rows=st.lists(ROWS, max_size=6), rotten=st.binary(max_size=20))
@FIXTURES
def test_any_rows_in_any_order(tmp_path: Path, format_name: str, rows: list[Any], rotten: bytes) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    lines = [json.dumps(row).encode() for row in rows] + [rotten.replace(b"\n", b"") or b"null"]
    forwards, backwards = [], []
    for path, order, into in (("f.jsonl", 1, forwards), ("b.jsonl", -1, backwards)):
        (tmp_path / path).write_bytes(b"\n".join(lines[::order]))
        found = read(tmp_path / path, format_name, rules=Rules(replace_invalid_utf8=True), digest=True)
        assert found.found == sum(not line.isspace() for line in lines)
        into += [outcomes(found).get(str(number)) for number in range(len(lines))][::order]
    assert forwards == backwards


@given(rows=st.lists(ROWS, max_size=6), cut=st.integers(0, 300), noise=st.binary(max_size=3))
@FIXTURES
def test_any_array_is_read_whole_or_refused(tmp_path: Path, rows: list[Any], cut: int, noise: bytes) -> None:
    whole = json.dumps(rows).encode()
    (tmp_path / "x.json").write_bytes(whole[:cut] + noise + whole[cut:])
    try:
        found = read(tmp_path / "x.json", "text").found
    except SourceError:
        found = None
    # What JSON takes for space, which is less than Python does.
    assert found == len(rows) or noise.strip(b" \t\n\r")


def mds(*texts: bytes) -> bytes:
    """A shard of one column, as its format is published."""
    config = {"column_names": ["text"], "column_encodings": ["str"], "column_sizes": [None]}
    head = json.dumps(config).encode()
    rows = [struct.pack("<I", len(text)) + text for text in texts]
    starts = np.cumsum([4 + 4 * (len(rows) + 1) + len(head), *map(len, rows)])
    return struct.pack(f"<{len(starts) + 1}I", len(rows), *starts) + head + b"".join(rows)


def binary(end: str) -> bytes:
    """A sound file of two rows."""
    table, file = pa.table({"text": ["a" * 20, "b" * 20]}), io.BytesIO()
    if end == ".parquet":
        pq.write_table(table, file)
    elif end == ".arrow":
        with pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
    codec = CODECS.get(end.removeprefix(".mds"))
    shard = mds(b"a" * 20, b"b" * 20)
    if codec == "bz2":
        return bz2.compress(shard)
    return file.getvalue() or (bytes(pa.compress(shard, codec, asbytes=True)) if codec else shard)


@pytest.mark.parametrize("end", [".parquet", ".arrow", ".mds", *(f".mds{end}" for end in CODECS)])
@given(flips=st.lists(st.tuples(st.integers(0, 4000), st.integers(1, 255)), max_size=3), cut=st.integers(0, 4000))
@example(flips=[(1824, 128)], cut=0)  # in Arrow a field's name that is not UTF-8: pyarrow raises UnicodeDecodeError
@FIXTURES
def test_any_binary_rows_are_read_or_refused(tmp_path: Path, end: str, flips: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(binary(end))
    for place, flip in flips:
        data[place % len(data)] ^= flip
    (tmp_path / f"x{end}").write_bytes(data if not cut % 3 else data[: cut % len(data)])
    try:
        found = read(tmp_path / f"x{end}", "text")
    except SourceError:
        return
    assert found.found <= 2
    assert {reason for reason, _ in found.drops.values()} <= set(REASONS)


def test_a_damaged_row_of_a_shard_leaves_its_neighbours(tmp_path: Path) -> None:
    data = bytearray(mds(b"first", b"second", b"third"))
    data[data.index(b"second") - 2] = 1
    (tmp_path / "x.mds").write_bytes(data)
    found = read(tmp_path / "x.mds", "text")
    assert found.keys == ["0", "2"]
    assert found.drops["1"][0] == "malformed_record"


COORDINATES = st.one_of(st.integers(-5, 3000), st.floats(), st.booleans(), st.none())
OBJECTS = st.dictionaries(
    st.sampled_from(["ref", "bbox", "bbox_type", "image_id"]),
    st.lists(st.lists(COORDINATES, max_size=5), max_size=3)
    | st.lists(WORDS | COORDINATES, max_size=3)
    | st.sampled_from(["real", "norm1", "x"]),
)
TEXTS = st.lists(st.sampled_from(["<bbox>", "<ref-object>", "<image>", "word", "<box>(1,2),(3,4)</box>"]), max_size=5)


@given(objects=OBJECTS | JSON | OBJECTS.map(json.dumps), texts=st.lists(TEXTS.map("".join), max_size=4))
@FIXTURES
def test_any_objects_are_put_into_the_texts_or_a_drop(tmp_path: Path, objects: Any, texts: list[str]) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    images = ["a.png"] * sum(text.count("<image>") for text in texts)
    row = {"messages": [{"role": "user", "content": text} for text in texts], "images": images, "objects": objects}
    (tmp_path / "x.jsonl").write_text(json.dumps(row))
    found = read(tmp_path / "x.jsonl", "messages", asked=Asked(keep=(BOXES,), boxes=True))
    assert found.found == 1
    for line, data in zip(found.kept, found.data, strict=True):
        parts = [Part(**part) for part in line["parts"]]
        assert not any("<bbox>" in (part.text or "") for part in parts)
        rule = Boxes.model_validate({"from": "pixels", "write": "resized", "marks": "tokens"})
        with contextlib.suppress(BadBox):
            sound = grounded(parts, [(image["width"], image["height"]) for image in line["images"]], rule, data[BOXES])
            assert sound is None or sound.at(Resolution())
