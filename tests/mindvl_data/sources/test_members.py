"""What lies in a tar under one key: every picture is found, nothing that is not used goes unnamed, no cut loses."""

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mindvl_data.sources import Asked
from mindvl_data.steps.scan import unused_members
from tests.mindvl_data.packs import png
from tests.mindvl_data.sources.scanned import Scanned, read


def tar(path: Path, members: Sequence[tuple[str, bytes]] | Mapping[str, bytes], form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as archive:
        for name, data in members.items() if isinstance(members, Mapping) else members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def picture(kind: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(out, kind)
    return out.getvalue()


def captions(found: Scanned) -> dict[str, Any]:
    return {line["key"]: [part["text"] for part in line["parts"]] for line in found.kept}


SOUND = {"jfif": "JPEG", "jpe": "JPEG", "pjpeg": "JPEG", "image": "PNG", "WebP_": "WEBP", "x.tiff2": "TIFF", "": "GIF"}


def test_a_picture_of_any_suffix_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    members = {f"{i}.{suffix}" if suffix else f"{i}": picture(kind) for i, (suffix, kind) in enumerate(SOUND.items())}
    members |= {f"{i}.txt": b"red" for i in range(len(SOUND))}
    found = read(tar(tmp_path / "t.tar", members), "webdataset")
    assert captions(found) == {str(i): [None, "red"] for i in range(len(SOUND))}


@pytest.mark.parametrize(
    ("suffix", "data", "reason"),
    [
        ("svg", b"<svg/>", "unreadable_image"),
        ("vector", b'\xef\xbb\xbf<?xml version="1.0"?>\n<!-- drawn -->\n<svg xmlns="x">', "unreadable_image"),
        ("heif", b"\0\0\0\x18ftypheic", "unreadable_image"),
        ("m4v", b"\0\0\0\x18ftypmp42", "truncated_video"),
        ("ogv", b"OggS\0", "unreadable_video"),
        ("what", b"\0\0\0\x18ftypmp42", "truncated_video"),
        ("mp4", picture("PNG"), "unreadable_video"),
        ("wav", b"RIFF....WAVE", "unsupported_media"),
        ("m4a", b"\0\0\0\x18ftypM4A ", "unsupported_media"),
        ("cls", b"7", "missing_image"),
        ("npy", b"", "missing_image"),
    ],
)
def test_a_caption_without_a_readable_picture_is_a_drop(tmp_path: Path, suffix: str, data: bytes, reason: str) -> None:
    found = read(tar(tmp_path / "t.tar", {"a.txt": b"text", f"a.{suffix}": data}), "webdataset")
    assert {key: reason for key, (reason, _) in found.drops.items()} == {"a": reason}


def test_members_that_are_not_used_are_counted_by_name(tmp_path: Path) -> None:
    members = {f"{i}.{s}": data for i in range(3) for s, data in (("png", png(i)), ("txt", b"x"), ("cls", b"7"))}
    found = read(tar(tmp_path / "t.tar", members | {"0.npy": b"\x93NUMPY"}), "webdataset")
    assert unused_members(found.task.samples) == {"cls": 3, "npy": 1}


def test_images_stand_in_the_order_that_their_names_count(tmp_path: Path) -> None:
    names = [f"a.{i}.png" for i in (10, 1, 2, 0)]
    members = [(name, png(i)) for i, name in enumerate(names)]
    found = read(tar(tmp_path / "t.tar", [*members, ("a.txt", b"x")]), "webdataset", digest=True)
    assert [found.image(0, which) for which in range(4)] == [png(3), png(1), png(2), png(0)]


@pytest.mark.parametrize(
    ("txt", "meta", "expected"),
    [
        (b"", {"caption": "a red house"}, "a red house"),
        (b" \n", {"text": "", "caption": "a red house"}, "a red house"),
        (None, {"text": None, "caption": "a red house"}, "a red house"),
        (b"\xef\xbb\xbfa red house", None, "a red house"),
        (None, {"caption": "\ufeffa red house"}, "a red house"),
        (b"\xef\xbb\xbf", {"text": " "}, ""),
    ],
)
def test_empty_and_null_are_absent_and_the_next_field_is_asked(
    tmp_path: Path, txt: bytes | None, meta: dict[str, Any] | None, expected: str
) -> None:
    members = {"a.png": png(0)} | ({} if txt is None else {"a.txt": txt})
    members |= {} if meta is None else {"a.json": b"\xef\xbb\xbf" + json.dumps(meta).encode()}
    assert captions(read(tar(tmp_path / "t.tar", members), "webdataset")) == {"a": [None, expected]}


def test_a_byte_order_mark_of_a_joined_file_or_of_a_text_is_passed_over(tmp_path: Path) -> None:
    lines = [b'\xef\xbb\xbf{"text": "one"}', b'\xef\xbb\xbf{"text": "\\ufefftwo"}']
    (tmp_path / "x.jsonl").write_bytes(b"\n".join(lines))
    assert captions(read(tmp_path / "x.jsonl", "text")) == {"0": ["one"], "1": ["two"]}


LONG = "folder/" * 20
KEYS = st.lists(st.sampled_from(["a", "b", f"{LONG}c", f"{LONG}d", "é" * 45, "f"]), min_size=1, max_size=4, unique=True)


@given(
    keys=KEYS,
    texts=st.lists(st.binary(max_size=1100), min_size=4, max_size=4),
    form=st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT]),
    cut=st.floats(0, 1),
    blocks=st.booleans(),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_of_a_tar_cut_anywhere_every_sample_is_kept_whole_or_dropped_or_behind_the_cut(
    tmp_path: Path, keys: list[str], texts: list[bytes], form: int, cut: float, blocks: bool
) -> None:
    members = [
        (f"{key}.{suffix}", data)
        for key, text in zip(keys, texts, strict=False)
        for suffix, data in (("txt", b"x" + text), ("0.png", png(0)), ("1.png", png(1)))
    ]
    whole = tar(tmp_path / "t.tar", members, form).read_bytes()
    with tarfile.open(tmp_path / "t.tar") as archive:
        starts = {key: min(m.offset for m in archive if m.name.startswith(f"{key}.")) for key in keys}
        end = max(m.offset_data + -(-m.size // 512) * 512 for m in archive)
    expected = captions(read(tmp_path / "t.tar", "webdataset"))
    at = int(cut * len(whole))
    at -= at % 512 if blocks else 0
    (tmp_path / "t.tar").write_bytes(whole[:at])
    found = read(tmp_path / "t.tar", "webdataset")
    kept, dropped = captions(found), set(found.drops)
    assert kept.items() <= expected.items()
    # A name that is cut itself cannot be said: its drop has none.
    begun = {key for key in keys if starts[key] < at}
    lost = begun - kept.keys() - dropped
    assert len(lost) <= len(dropped - set(keys))
    assert (dropped or at > end) if begun else True


def test_a_tar_without_its_end_mark_does_not_keep_a_sample_that_may_have_lost_a_part(tmp_path: Path) -> None:
    path = tar(tmp_path / "t.tar", {"a.txt": b"x", "a.0.png": png(0), "b.txt": b"y", "b.0.png": png(1)})
    data = path.read_bytes()
    path.write_bytes(data.rstrip(b"\0") + bytes(-len(data.rstrip(b"\0")) % 512))
    found = read(path, "webdataset", asked=Asked())
    assert (found.keys, {key: reason for key, (reason, _) in found.drops.items()}) == (
        ["a"],
        {"b": "truncated_archive"},
    )
