"""Every reader on files written by the format's own library where there is one, sound and broken."""

import base64
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from mindvl_data.sources import SourceError
from tests.mindvl_data.packs import png
from tests.mindvl_data.sources.scanned import Scanned, read


def reasons(scanned: Scanned) -> dict[str, str]:
    return {key: reason for key, (reason, _) in scanned.drops.items()}


def texts(sample: dict[str, Any]) -> list[str | None]:
    return [part["text"] for part in sample["parts"]]


# ------------------------------------------------------------------------------------------- webdataset


def test_webdataset_as_its_own_writer_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "a-000.tar"
    with webdataset.TarWriter(str(path)) as writer:
        writer.write({"__key__": "one", "png": png(1), "txt": "first", "json": {"uid": "u1", "text": "other"}})
        writer.write({"__key__": "sub/two", "0.png": png(2), "1.png": png(3), "json": {"caption": "second"}})
    found = read(path, "webdataset")
    one, two = found.kept
    assert (one["key"], one["uid"], texts(one)) == ("one", "u1", [None, "first"])
    assert (two["key"], texts(two)) == ("sub/two", [None, None, "second"])
    assert [found.image(1, 0), found.image(1, 1)] == [png(2), png(3)]


def tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def test_members_of_a_key_need_not_be_adjacent(tmp_path: Path) -> None:
    members = {"a.png": png(1), "b.png": png(2), "a.txt": b"A", "b.txt": b"B"}
    assert [texts(sample) for sample in read(tar(tmp_path / "x.tar", members), "webdataset").kept] == [
        [None, "A"],
        [None, "B"],
    ]


def test_a_broken_sample_leaves_its_neighbours(tmp_path: Path) -> None:
    members = {
        "good.png": png(1),
        "good.txt": b"fine",
        "nocaption.png": png(1),
        "badjson.json": b"{",
        "list.json": b"[]",
        "latin.png": png(1),
        "latin.txt": "é".encode("latin-1"),
        "film.mp4": b"...",
        "film.txt": b"x",
        "last.png": png(2),
        "last.txt": b"also fine",
    }
    found = read(tar(tmp_path / "x.tar", members), "webdataset")
    assert reasons(found) == {
        "nocaption": "malformed_record",
        "badjson": "malformed_record",
        "list": "malformed_record",
        "latin": "invalid_utf8",
        "film": "unreadable_video",
    }
    assert found.keys == ["good", "last"]


@given(cut=st.integers(0, 12_000))
@settings(max_examples=60, deadline=None)
def test_a_truncated_archive_keeps_what_is_whole_and_says_what_is_not(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    picture = png(1)
    members = {f"{i}.{kind}": data for i in range(4) for kind, data in (("png", picture), ("txt", b"t"))}
    whole = tar(folder / "x.tar", members)
    whole.write_bytes(whole.read_bytes()[:cut])
    found = read(whole, "webdataset")
    assert all(found.image(i) == picture for i in range(len(found.kept)))
    assert set(reasons(found).values()) <= {"truncated_archive", "malformed_record"}
    if cut < 4 * (512 + -(-len(picture) // 512) * 512 + 512 + 1):
        assert len(found.kept) < 4


def test_what_is_no_archive_is_one_ledger_line(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"this is no tar archive" * 100)
    assert reasons(read(tmp_path / "x.tar", "webdataset")) == {"": "malformed_record"}


# ----------------------------------------------------------------------------------- llava and messages


def jsonl(path: Path, lines: list[Any]) -> Path:
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines))
    return path


def turn(text: Any, who: str = "human") -> dict[str, Any]:
    return {"from": who, "value": text}


def test_llava_places_and_paths(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(png(1))
    answer = turn("yes", "gpt") | {"loss": False}
    entries: list[Any] = [
        {"id": 7, "image": "images/a.png", "conversations": [turn("<image>\nwhat?"), answer]},
        {"image": ["images/a.png", "images/a.png"], "conversations": [turn("<image> and <image>")]},
        {"conversations": [turn("be brief", "system"), turn("text only"), turn("ok", "gpt")]},
        {"image": "images/a.png", "conversations": [turn("no place")]},
        {"image": "images/none.png", "conversations": [turn("<image>")]},
        {"image": "../../etc/passwd", "conversations": [turn("<image>")]},
        {"image": "/etc/passwd", "conversations": [turn("<image>")]},
        {"image": "file:///etc/passwd", "conversations": [turn("<image>")]},
        {"image": "images", "conversations": [turn("<image>")]},
        {"image": 3, "conversations": [turn("<image>")]},
        {"video": "a.mp4", "conversations": [turn("<video>")]},
        {"conversations": [turn("hm", "alien")]},
        {"conversations": [turn(None)]},
        {"conversations": "text"},
        "text",
    ]
    path = tmp_path / "data.json"
    path.write_text(json.dumps(entries))
    found = read(path, "llava")
    first, second, third = found.kept
    assert (first["uid"], texts(first), first["parts"][2]["loss"]) == ("7", [None, "\nwhat?", "yes"], False)
    assert (first["images"][0]["uri"], found.image(0)) == ("images/a.png", png(1))
    assert texts(second) == [None, " and ", None]
    assert [part["role"] for part in third["parts"]] == ["system", "user", "assistant"]
    assert list(reasons(found).values()) == [
        "image_count_mismatch",
        "missing_image",
        "outside_root",
        "outside_root",
        "outside_root",
        "missing_image",
        "missing_image",
        "missing_image",
        "malformed_record",
        "malformed_record",
        "malformed_record",
        "malformed_record",
    ]


def test_a_link_out_of_the_source_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(png(1))
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.png").symlink_to(tmp_path / "secret.png")
    (source / "data.json").write_text(json.dumps([{"image": "a.png", "conversations": [turn("<image>")]}]))
    assert reasons(read(source / "data.json", "llava")) == {"0": "outside_root"}


@pytest.mark.parametrize("text", ["[", "[{}", "[{} {}]", "[{}] []", "[" * 100_000, "[nul]"])
def test_a_file_that_is_no_llava_json_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "data.json").write_text(text)
    with pytest.raises(SourceError, match=r"data\.json"):
        read(tmp_path / "data.json", "llava")


def test_messages_strings_and_blocks(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    url = "data:image/png;base64," + base64.b64encode(png(2)).decode()
    blocks = [
        {"type": "text", "text": "see"},
        {"type": "image", "image": "a.png"},
        {"type": "image_url", "image_url": {"url": url}},
    ]

    def one(content: Any, role: str = "user") -> dict[str, Any]:
        return {"messages": [{"role": role, "content": content}]}

    lines: list[Any] = [
        {
            "id": "x",
            "messages": [{"role": "user", "content": "<image> is text"}, {"role": "assistant", "content": "ok"}],
        },
        one(blocks),
        b"",
        b"{broken",
        b'{"messages": [{"role": "user", "content": "\xe9"}]}',
        one([{"type": "video", "video": "a.mp4"}]),
        one([{"type": "hologram"}]),
        one([{"type": "image_url", "image_url": {"url": "data:image/png;base64,!!!"}}]),
        one("x", "robot"),
        {"messages": "x"},
        b"[" * 100_000,
    ]
    found = read(jsonl(tmp_path / "data.jsonl", lines), "messages")
    assert [texts(sample) for sample in found.kept] == [["<image> is text", "ok"], ["see", None, None]]
    assert [found.image(1, 0), found.image(1, 1)] == [png(1), png(2)]
    assert [image["uri"] for image in found.kept[1]["images"]] == ["a.png", "build:media/s.bin"]
    assert reasons(found) == {
        "3": "malformed_record",
        "4": "invalid_utf8",
        "5": "missing_image",
        "6": "malformed_record",
        "7": "unreadable_image",
        "8": "malformed_record",
        "9": "malformed_record",
        "10": "malformed_record",
    }


@given(
    st.lists(
        st.binary(max_size=60)
        | st.recursive(
            st.none() | st.text(max_size=5) | st.integers(),
            lambda x: (
                st.lists(x, max_size=3)
                | st.dictionaries(st.sampled_from(["messages", "role", "content", "type", "image"]), x, max_size=3)
            ),
            max_leaves=8,
        ).map(lambda v: json.dumps(v).encode()),
        max_size=8,
    )
)
@settings(max_examples=150, deadline=None)
def test_any_lines_are_samples_or_drops_and_never_a_crash(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]
) -> None:
    lines = [line.replace(b"\n", b" ") for line in lines]
    path = jsonl(tmp_path_factory.mktemp("fuzz") / "data.jsonl", lines)
    assert read(path, "messages").found == sum(bool(line.strip()) for line in path.read_bytes().split(b"\n"))


# ------------------------------------------------------------------------------------------- finevision


def test_finevision_as_parquet(tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(png(4))
    rows = [
        {
            "images": [{"bytes": png(1), "path": None}, {"bytes": None, "path": "b.png"}],
            "texts": [{"user": "q", "assistant": "a"}, {"user": "q2", "assistant": "a2"}],
        },
        {"images": None, "texts": [{"user": "q", "assistant": "a"}]},
        {"images": [], "texts": []},
        {"images": [{"bytes": None, "path": None}], "texts": [{"user": "q", "assistant": "a"}]},
        {"images": [], "texts": [{"user": "q", "assistant": None}]},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data.parquet", row_group_size=2)
    found = read(tmp_path / "data.parquet", "finevision")
    assert [texts(line) for line in found.kept] == [[None, None, "q", "a", "q2", "a2"], ["q", "a"]]
    assert [part["turn"] for part in found.kept[0]["parts"]] == [0, 0, 0, 1, 2, 3]
    assert [found.image(0, 0), found.image(0, 1)] == [png(1), png(4)]
    assert reasons(found) == {"2": "empty", "3": "missing_image", "4": "malformed_record"}


@pytest.mark.parametrize("content", [b"", b"PAR1 no", None])
def test_a_file_that_is_no_finevision_parquet_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "data.parquet"
    pq.write_table(pa.table({"x": [1]}), path) if content is None else path.write_bytes(content)
    with pytest.raises(SourceError, match=r"data\.parquet"):
        read(path, "finevision")


def test_a_flood_of_empty_lines_costs_little_and_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "empty.jsonl.zst"
    with pa.CompressedOutputStream(str(path), "zstd") as file:
        file.write(b'{"text": "first"}\n')
        for _ in range(50):
            file.write(b"\n" * 1_000_000)
        file.write(b'{"text": "last"}')
    assert [(sample["key"], texts(sample)) for sample in read(path, "text").kept] == [
        ("0", ["first"]),
        ("50000001", ["last"]),
    ]


@pytest.mark.parametrize("end", ["tar.gz", "tgz", "tar.zst"])
def test_a_compressed_tar_is_that_tar(tmp_path: Path, end: str) -> None:
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as writer:
        for i in range(20):
            writer.write({"__key__": f"{i:02}", "png": png(i), "txt": f"caption {i}"})
    plain = (tmp_path / "a.tar").read_bytes()
    codec = "zstd" if end.endswith("zst") else "gzip"
    with pa.CompressedOutputStream(str(tmp_path / f"b.{end}"), codec) as file:
        file.write(plain)
    one, other = (read(tmp_path / name, "webdataset") for name in ("a.tar", f"b.{end}"))
    assert [(s["key"], s["parts"]) for s in one.kept] == [(s["key"], s["parts"]) for s in other.kept]
    assert [one.image(i, 0) for i in range(20)] == [other.image(i, 0) for i in range(20)]


def test_a_tar_that_unpacks_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mindvl_data.sources.unpacked.MOST_BYTES", 1 << 20)
    with pa.CompressedOutputStream(str(tmp_path / "a.tar.gz"), "gzip") as file:
        file.write(bytes(20 << 20))
    with pytest.raises(SourceError, match=r"a\.tar\.gz: cannot be read as gzip .* bytes unpacked"):
        read(tmp_path / "a.tar.gz", "webdataset")


def test_of_a_list_of_captions_the_first_is_taken_and_the_others_are_counted(tmp_path: Path) -> None:
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as writer:
        writer.write({"__key__": "one", "png": png(1), "json": {"caption": ["", "first", "second"]}})
    (sample,) = read(tmp_path / "a.tar", "webdataset").kept
    assert texts(sample) == [None, "first"]
