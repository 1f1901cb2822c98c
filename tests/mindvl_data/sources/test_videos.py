"""Clips in every place that a source has for them: what becomes of each, by name."""

from __future__ import annotations

import base64
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mindvl_data.steps.scan import Rules
from mindvl_data.tables.videos import VideoTable
from tests import clips
from tests.mindvl_data.packs import png
from tests.mindvl_data.sources.scanned import Scanned, read

MP4, WEBM = clips.clip("h264.mp4"), clips.clip("vp9.webm")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = {"a.mp4": MP4, "b.webm": WEBM, "empty.mp4": b"", "cut.mp4": MP4[:1500], "picture.mp4": png(1)}
    files |= {"clip.jpg": MP4, "sound.mp4": clips.sound(), "f.png": png(2), "g.png": png(3)}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def rows(found: Scanned) -> list[list[Any]]:
    """Of every kept line the clip or None of each of its images."""
    table = VideoTable(found.task.samples)
    return [table.of_sample(number, len(line["images"])) for number, line in enumerate(found.kept)]


def llava(folder: Path, row: dict[str, Any], text: str = "<video>what?", rules: Rules | None = None) -> Scanned:
    turns = [{"from": "human", "value": text}, {"from": "gpt", "value": "that"}]
    (folder / "x.json").write_text(json.dumps([row | {"conversations": turns}]))
    return read(folder / "x.json", "llava", rules=rules)


@pytest.mark.parametrize(
    ("row", "frames", "first"),
    [
        ({"video": "a.mp4"}, 30, 0),
        ({"videos": ["b.webm"]}, 30, 0),
        ({"videos": json.dumps(["a.mp4"])}, 30, 0),
        ({"video": {"path": "a.mp4", "start": 1, "end": 2}}, 10, 10),
        ({"video": "a.mp4", "start": 2.9, "end": 100}, 1, 29),
        ({"video": "a.mp4", "start": -3, "end": 0.05}, 1, 0),
        ({"video": {"video": {"path": "a.mp4"}, "video_start": 0.5}}, 25, 5),
        ({"video": "data:video/mp4;base64," + base64.b64encode(MP4).decode()}, 30, 0),
        ({"video": ["f.png", "g.png", "f.png"]}, 3, 0),
        ({"videos": [["f.png"]]}, 1, 0),
        ({"video": {"frames": ["f.png", "g.png", "f.png"], "times": [0, 0.4, 7], "start": 0.2}}, 2, 1),
    ],
)
def test_what_a_row_may_say_of_its_clip(folder: Path, row: dict[str, Any], frames: int, first: int) -> None:
    found = llava(folder, row, rules=Rules(decode=True))
    assert found.drops == {}
    ((clip,),) = rows(found)
    assert (clip.frames, clip.first) == (frames, first)
    assert clip.chosen(np.arange(clip.frames))[0].time == pytest.approx(0)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"video": "empty.mp4"}, "unreadable_video"),
        ({"video": "cut.mp4"}, "truncated_video"),
        ({"video": "picture.mp4"}, "unreadable_video"),
        ({"video": "sound.mp4"}, "unreadable_video"),
        ({"video": "missing.mp4"}, "missing_image"),
        ({"video": "../../etc/passwd"}, "outside_root"),
        ({"video": 7}, "missing_image"),
        ({"video": {"what": 1}}, "missing_image"),
        ({"videos": [[]]}, "missing_image"),
        ({"videos": ["a.mp4", "b.webm"]}, "image_count_mismatch"),
        ({"video": "a.mp4", "start": 5, "end": 2}, "malformed_record"),
        ({"video": "a.mp4", "start": 50}, "malformed_record"),
        ({"video": "a.mp4", "start": "1"}, "malformed_record"),
        ({"video": {"frames": ["f.png", "g.png"], "times": [1, 0]}}, "malformed_record"),
        ({"video": {"frames": ["f.png", "g.png"], "times": [1]}}, "malformed_record"),
        ({"video": {"frames": ["f.png"], "fps": 0}}, "malformed_record"),
        ({"audio": "sound.mp4"}, "unsupported_media"),
    ],
)
def test_every_fault_has_its_reason(folder: Path, row: dict[str, Any], reason: str) -> None:
    assert [found for found, _ in llava(folder, row).drops.values()] == [reason]


def test_a_clip_in_the_place_of_a_picture_is_said_to_be_one(folder: Path) -> None:
    found = llava(folder, {"image": "clip.jpg"}, "<image>what?")
    ((reason, detail),) = found.drops.values()
    assert reason == "unreadable_image"
    assert "a video (mp4)" in detail


def test_limits_of_a_clip(folder: Path) -> None:
    found = llava(folder, {"video": "a.mp4"}, rules=Rules(max_video_frames=20))
    assert [reason for reason, _ in found.drops.values()] == ["video_too_long"]
    found = llava(folder, {"video": "a.mp4"}, rules=Rules(max_image_pixels=1000))
    assert [reason for reason, _ in found.drops.values()] == ["image_too_large"]


def test_places_of_pictures_and_clips_are_in_the_order_of_the_text(folder: Path) -> None:
    row = {"image": "f.png", "videos": ["a.mp4", "b.webm"]}
    found = llava(folder, row, "<video> then <image> then <video>?")
    assert [image["format"] for image in found.kept[0]["images"]] == ["mp4", "png", "matroska"]
    assert [clip is not None for clip in rows(found)[0]] == [True, False, True]
    # Without clips `<video>` is text; with clips alone `<image>` is a clip's place.
    assert [part["text"] for part in llava(folder, {}, "<video> is text").kept[0]["parts"]][:1] == ["<video> is text"]
    assert [clip.frames for clip in rows(llava(folder, {"video": "a.mp4"}, "<image>what?"))[0]] == [30]


def test_messages_have_clips_inside_and_beside(folder: Path) -> None:
    def one(content: Any, **beside: Any) -> dict[str, Any]:
        return {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "x"}], **beside}

    lines = [
        one([{"type": "video", "video": "a.mp4", "video_start": 1.0, "video_end": 2.0}, {"type": "text", "text": "x"}]),
        one([{"type": "video_url", "video_url": {"url": "b.webm"}}]),
        one([{"type": "video", "video": ["f.png", "g.png"], "sample_fps": 1.0}]),
        one([{"type": "video"}, {"type": "image"}], videos=["a.mp4"], images=["f.png"]),
        one("<video> and <image>", videos=["a.mp4"], images=["f.png"]),
        one("no place", videos=["a.mp4"]),
        one([{"type": "video"}], images=["f.png"]),
        one([{"type": "input_audio", "input_audio": {}}]),
    ]
    (folder / "x.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = read(folder / "x.jsonl", "messages")
    shapes = [[clip and (clip.frames, clip.first, clip.rate) for clip in line] for line in rows(found)]
    whole = (30, 0, 10.0)
    assert shapes == [[(10, 10, 10.0)], [whole], [(2, 0, 1.0)], [whole, None], [whole, None], [whole]]
    reasons = {key: reason for key, (reason, _) in found.drops.items()}
    assert reasons == {"6": "image_count_mismatch", "7": "unsupported_media"}


@pytest.mark.parametrize("kind", ["VidQAWebdataset", "CaptioningWebdataset"])
def test_energon_has_clips_as_members(tmp_path: Path, kind: str) -> None:
    names = ("context", "answers") if kind == "VidQAWebdataset" else ("caption",)
    field = "video" if kind == "VidQAWebdataset" else "image"
    members = {"0.mp4": MP4, "0.json": json.dumps(dict.fromkeys(names, "text")).encode()}
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    (tmp_path / ".nv-meta").mkdir()
    fields = {field: "mp4"} | {name: f"json[{name}]" for name in names}
    described = {"__module__": "megatron.energon", "__class__": kind, "field_map": fields}
    (tmp_path / ".nv-meta" / "dataset.yaml").write_text(json.dumps(described))
    found = read(tmp_path / "x.tar", "energon")
    assert found.drops == {}
    assert found.image(0) == MP4
    assert rows(found)[0][0].frames == 30


def test_cells_of_a_table_are_clips(tmp_path: Path) -> None:
    cells = [{"bytes": MP4, "path": None}, {"bytes": WEBM, "path": "b.webm"}]
    pq.write_table(pa.table({"video": cells, "caption": ["one", "two"]}), tmp_path / "x.parquet")
    found = read(tmp_path / "x.parquet", "captions")
    assert [found.image(number) for number in (0, 1)] == [MP4, WEBM]
    assert [line[0].codec for line in rows(found)] == ["h264", "vp9"]


def test_a_file_without_clips_has_no_table_of_them(folder: Path) -> None:
    found = llava(folder, {"image": "f.png"}, "<image>what?")
    assert not found.task.videos.exists()
    assert len(VideoTable(found.task.samples)) == 0
