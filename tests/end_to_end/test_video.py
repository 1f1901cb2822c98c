"""Clips from every kind of source to the patches of a batch, by the rules of both families."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from mindvl_data.exports import export
from mindvl_data.manifest import Manifest, read_manifest
from mindvl_data.manifest.verify import verify
from mindvl_data.pipeline import BuildReport, build
from mindvl_data.recipe import load_recipe
from mindvl_data.shards import Pack, PackImage, write_shard
from mindvl_data.stream import PackStream
from mindvl_data.vision import media_patches, resize
from mindvl_data.vision.video.reading import read_frames
from tests import clips
from tests.conftest import QUICKSTART

FAMILIES = {"qwen2-vl": resize.QWEN2_VL, "qwen3-vl": resize.QWEN3_VL}
KINDS = [*clips.KINDS]
# Small frames, so that a clip is some dozens of tokens.
SMALL = {"min_pixels": 1000, "max_pixels": 96 * 64 * 8}


def said(question: str, answer: str = "a yellow square") -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def frame_png(number: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(clips.drawing(number)).save(file, "PNG")
    return file.getvalue()


def write_sources(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for kind in KINDS:
        (folder / kind).write_bytes(clips.clip(kind))
    for number in range(8):
        (folder / f"frame{number}.png").write_bytes(frame_png(number))
    (folder / "llava.json").write_text(
        json.dumps(
            [
                *({"id": kind, "video": kind, "conversations": said("<video>\nWhat moves?")} for kind in KINDS),
                {"id": "places", "video": KINDS[0], "conversations": said("<image>\nWhat moves?")},
                {
                    "id": "both",
                    "image": "frame0.png",
                    "videos": [KINDS[0], KINDS[3]],
                    "conversations": said("First <video>, then <image>, then <video>: what moves?"),
                },
                {"id": "part", "video": KINDS[0], "start": 1.0, "end": 2.0, "conversations": said("<video>What?")},
                {"id": "frames", "video": [f"frame{i}.png" for i in range(8)], "conversations": said("<video>What?")},
            ]
        )
    )
    blocks = [
        {"type": "video", "video": KINDS[1], "video_start": 0.5, "video_end": 2.5},
        {"type": "text", "text": "and"},
        {"type": "video", "video": [f"frame{i}.png" for i in range(5)], "sample_fps": 4},
        {"type": "text", "text": "what moves?"},
    ]
    asked = {"role": "user", "content": blocks}
    url = [{"type": "video_url", "video_url": {"url": KINDS[6]}}, {"type": "text", "text": "what moves?"}]
    answer = {"role": "assistant", "content": "a square"}
    rows = [{"messages": [asked, answer]}, {"messages": [{"role": "user", "content": url}, answer]}]
    (folder / "messages.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with tarfile.open(folder / "captions.tar", "w") as tar:
        for number, kind in enumerate(("h264.mp4", "vp9.webm", "mjpeg.avi")):
            for name, data in ((kind.partition(".")[2], clips.clip(kind)), ("txt", b"a yellow square moves")):
                member = tarfile.TarInfo(f"{number}.{name}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    cells = [{"bytes": clips.clip("h264.mp4"), "path": None}, {"bytes": clips.clip("mjpeg.mkv"), "path": None}]
    pq.write_table(pa.table({"video": cells, "caption": ["a square", "a yellow square"]}), folder / "cells.parquet")
    (folder / "text.jsonl").write_text("\n".join(json.dumps({"text": f"plain text {i}"}) for i in range(20)))


def write_recipe(folder: Path, **more: Any) -> Path:
    write_sources(folder)
    (folder / "tokenizer.json").write_bytes((QUICKSTART / "tokenizer.json").read_bytes())
    recipe: dict[str, Any] = {
        "name": "video",
        "tokenizer": "tokenizer.json",
        "sources": {
            "llava": {"format": "llava", "path": "llava.json", "kind": "video"},
            "messages": {"format": "messages", "path": "messages.jsonl", "kind": "video"},
            "tars": {"format": "webdataset", "path": "captions.tar", "kind": "caption"},
            "cells": {"format": "captions", "path": "cells.parquet", "kind": "caption"},
            "text": {"format": "text", "path": "text.jsonl", "kind": "text"},
        },
        "video": SMALL,
        "stages": {
            "sft": {
                "seq_len": 1024,
                "budget": {"epochs": 1},
                "mixture": {"llava": 0.5, "messages": 0.1, "tars": 0.2, "cells": 0.1, "text": 0.1},
                "max_epochs": 30,
            }
        },
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe | more))
    return path


@pytest.fixture(scope="module", params=FAMILIES)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, BuildReport, Path]:
    folder = tmp_path_factory.mktemp("video")
    template = {"qwen2-vl": "qwen2-vl", "qwen3-vl": "chatml"}[request.param]
    path = write_recipe(folder / "recipe", processor=request.param, chat_template=template)
    return request.param, build(load_recipe(path), folder / "built"), folder


def only(report: BuildReport) -> Manifest:
    # The one set of the recipe.
    return read_manifest(report.out / "sft-1024")


def packs_of(manifest: Manifest) -> list[Pack]:
    return [pack for pack in PackStream(manifest) if pack.num_tokens]


def clips_of(pack: Pack) -> Iterator[list[PackImage]]:
    """The entries of every clip of a pack."""
    entries: list[PackImage] = []
    for image in pack.images:
        again = entries and image.is_video and image.data is entries[-1].data
        if entries and not (again and image.frames[0].index >= entries[-1].frames[-1].index):
            yield entries
            entries = []
        entries = [*entries, image] if image.is_video else entries
    if entries:
        yield entries


def test_nothing_is_lost_and_every_pack_is_sound(built: tuple[str, BuildReport, Path]) -> None:
    _, report, _ = built
    manifest = only(report)
    assert [line for line in manifest.data["funnel"] if line["reasons"]] == []
    assert [problem for _, problems in verify(manifest) for problem in problems] == []
    assert manifest.data["resolution"]["video"]["fps"] == 2.0
    assert manifest.tokenizer["special_ids"]["video_pad"] > 0


def test_a_shard_of_columns_has_the_bytes_of_its_packs_written_one_by_one(
    built: tuple[str, BuildReport, Path], tmp_path: Path
) -> None:
    manifest = only(built[1])
    (shard,) = manifest.shards
    packs = PackStream(manifest)
    info = write_shard(tmp_path / shard.path, packs, manifest.seq_len, list(manifest.data["sources"]), video=True)
    assert info.sha256 == shard.sha256


def test_patches_of_every_clip_are_those_of_decoding_everything(built: tuple[str, BuildReport, Path]) -> None:
    family, report, _ = built
    rule = FAMILIES[family]
    seen = set()
    for pack in packs_of(only(report)):
        made = list(media_patches(pack.images, rule.patch, rule.merge, rule.normalisation))
        assert [len(patches) for patches in made] == [image.num_patches for image in pack.images]
        for entries in clips_of(pack):
            assert (entries[0].grid[0] == 1) == (family == "qwen3-vl") or len(entries[0].frames) == 2
            data = bytes(entries[0].data or b"")
            seen.add(data[:16])
            if data.startswith(b"\x89PNG"):
                continue
            every = clips.every_frame(data)
            for frame in (frame for entry in entries for frame in entry.frames):
                (pixels,) = read_frames(data, [frame])
                stored = np.ascontiguousarray(pixels).view(np.uint8).reshape(*pixels.shape, 4)[..., :3]
                assert np.array_equal(stored, every[frame.index])
    assert len(seen) > 4


def test_frames_and_times_are_those_of_the_rule(built: tuple[str, BuildReport, Path]) -> None:
    family, report, _ = built
    found: dict[int, list[list[int]]] = {}
    for pack in packs_of(only(report)):
        for entries in clips_of(pack):
            frames = [frame for entry in entries for frame in entry.frames]
            found.setdefault(len(frames), []).append([frame.index for frame in frames])
            assert all(frame.time >= 0 for frame in frames)
    # Three seconds at two frames a second.
    expected = [0, 5, 10, 15, 20, 25] if family == "qwen2-vl" else [0, 6, 12, 17, 23, 29]
    assert expected in found[6]
    # The second from 1.0 to 2.0, of which the least number of frames is looked at.
    part = [10, 12, 15, 17] if family == "qwen2-vl" else [10, 13, 16, 19]
    assert part in found[4]


def test_tokens_are_those_that_the_published_processor_writes(built: tuple[str, BuildReport, Path]) -> None:
    family, report, _ = built
    manifest = only(report)
    from mindvl_data.tokenise import load_tokeniser

    tokeniser = load_tokeniser("tokenizer.json", QUICKSTART)
    texts = []
    for pack in packs_of(manifest):
        for start, stop in zip(pack.cu_seqlens[:-1], pack.cu_seqlens[1:], strict=True):
            texts.append(tokeniser.decode(pack.tokens[start:stop].tolist()))
    clip = next(text for text in texts if "What moves?" in text and "<|image_pad|>" not in text)
    if family == "qwen2-vl":
        run = clip[clip.index("<|vision_start|>") : clip.index("<|vision_end|>")]
        # 64 × 96 at 14: 4 × 6 patches, of 3 pairs of frames.
        assert run == "<|vision_start|>" + "<|video_pad|>" * (3 * 4 * 6 // 4)
    else:
        times = [(a + b) / 2 / 10 for a, b in ((0, 6), (12, 17), (23, 29))]
        spans = "".join(f"<{t:.1f} seconds><|vision_start|>" + "<|video_pad|>" * 6 + "<|vision_end|>" for t in times)
        assert spans in clip
    assert "<|video_pad|>" in clip


def test_the_bytes_are_the_sources_own_and_stand_once(built: tuple[str, BuildReport, Path]) -> None:
    _, report, folder = built
    manifest = only(report)
    originals = {(folder / "recipe" / kind).read_bytes() for kind in KINDS} | {clips.clip(k) for k in KINDS}
    total = 0
    for pack in packs_of(manifest):
        for entries in clips_of(pack):
            data = bytes(entries[0].data or b"")
            assert data in originals or data.startswith(b"\x89PNG")
            total += len(data)
    assert sum(shard.bytes for shard in manifest.shards) < 3 * total + 400_000


def test_references_point_into_the_clips_and_give_the_same_patches(
    built: tuple[str, BuildReport, Path], tmp_path: Path
) -> None:
    family, report, folder = built
    recipe = yaml.safe_load((folder / "recipe" / "recipe.yaml").read_text())
    path = folder / "recipe" / "reference.yaml"
    path.write_text(yaml.safe_dump(recipe | {"media": "reference"}))
    referenced = only(build(load_recipe(path), tmp_path / "built"))
    rule = FAMILIES[family]
    pairs = zip(packs_of(only(report)), packs_of(referenced), strict=True)
    for one, other in pairs:
        assert [image.grid for image in one.images] == [image.grid for image in other.images]
        assert np.array_equal(one.tokens, other.tokens)
        assert {image.uri for image in other.images if image.uri} or not other.images
    for pack, again in zip(packs_of(only(report))[:2], packs_of(referenced)[:2], strict=True):
        for a, b in zip(
            media_patches(pack.images, rule.patch, rule.merge),
            media_patches(again.images, rule.patch, rule.merge),
            strict=True,
        ):
            assert np.array_equal(a, b)


def test_two_builds_have_the_same_bytes(built: tuple[str, BuildReport, Path], tmp_path: Path) -> None:
    _, report, folder = built
    again = only(build(load_recipe(folder / "recipe" / "recipe.yaml"), tmp_path / "again"))
    assert [shard.sha256 for shard in again.shards] == [shard.sha256 for shard in only(report).shards]


def test_filters_name_what_the_headers_say(tmp_path: Path) -> None:
    path = write_recipe(
        tmp_path / "recipe",
        filters=[
            {"name": "short enough", "where": "duration <= 2.5", "sources": ["llava"]},
            {"name": "frames", "where": "frames >= 8 and fps <= 30 and not has_audio", "sources": ["llava"]},
            {"name": "moves", "where": "blankness < 0.99", "sources": ["messages"]},
        ],
    )
    report = build(load_recipe(path), tmp_path / "built")
    lines = {(line.step, line.source): line for line in report.funnel}
    # The second from 1.0 to 2.0 is short; the whole clips and the eight frames, two a second, are not.
    assert lines["filter: short enough", "llava"].left == 1
    assert lines["filter: frames", "llava"].left == 1
    assert lines["filter: moves", "messages"].left == 2


def test_the_same_clip_in_another_container_is_a_near_duplicate(tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "recipe", dedup=[{"by": "image", "near": 6, "sources": ["cells"]}])
    report = build(load_recipe(path), tmp_path / "built")
    line = next(line for line in report.funnel if line.step.startswith("dedup") and line.source == "cells")
    assert (line.entered, line.left) == (2, 1)


@pytest.mark.parametrize("name", ["webdataset", "datasets", "energon"])
def test_exports_keep_the_clips(built: tuple[str, BuildReport, Path], tmp_path: Path, name: str) -> None:
    *_, folder = built
    recipe = yaml.safe_load((folder / "recipe" / "recipe.yaml").read_text())
    recipe["stages"]["sft"]["mixture"] = {"tars": 0.5, "cells": 0.5}
    path = folder / "recipe" / f"{name}.yaml"
    path.write_text(yaml.safe_dump(recipe))
    made = only(build(load_recipe(path), tmp_path / "built"))
    drawn = export(made, name, tmp_path / "out")
    if name == "datasets":
        table = pq.read_table(tmp_path / "out" / "data")
        kept = [clip["bytes"] for line in table.column("videos").to_pylist() for clip in line]
        again = {"format": "messages", "path": "out/data/*.parquet", "kind": "video", "render": "caption"}
    else:
        with tarfile.open(next((tmp_path / "out").glob("*.tar"))) as tar:
            kept = [tar.extractfile(m).read() for m in tar if not m.name.endswith("json")]  # type: ignore[union-attr]
        again = {"format": "messages", "path": "out/*.tar", "kind": "video", "render": "caption"}
    originals = {clips.clip(kind) for kind in KINDS}
    assert len(kept) == drawn
    assert set(kept) <= originals
    back = {"sources": {"back": again}}
    (tmp_path / "tokenizer.json").write_bytes((QUICKSTART / "tokenizer.json").read_bytes())
    stages = {"sft": {"seq_len": 1024, "budget": {"epochs": 1}, "mixture": {"back": 1.0}}}
    shape = {"name": "back", "tokenizer": "tokenizer.json", "video": SMALL, "stages": stages, **back}
    (tmp_path / "back.yaml").write_text(yaml.safe_dump(shape | {"processor": recipe["processor"]}))
    second = only(build(load_recipe(tmp_path / "back.yaml"), tmp_path / "again"))
    assert second.data["mixture"]["total"]["samples"] == drawn
    assert second.data["mixture"]["total"]["vision_tokens"] == made.data["mixture"]["total"]["vision_tokens"]


def run_for_json(*args: object) -> str:
    command = [sys.executable, "-m", "mindvl_data", *map(str, args), "--json"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_people_see_the_clips(built: tuple[str, BuildReport, Path]) -> None:
    _, report, folder = built
    manifest = only(report)
    command = [sys.executable, "-m", "mindvl_data"]
    shown = subprocess.run(
        [*command, "show", str(manifest.path), "--pack", "0"], capture_output=True, text=True, check=True
    )
    assert "[video: " in shown.stdout
    told = json.loads(run_for_json("show", manifest.path, "--pack", 0))
    spans = [span for segment in told["segments"] for span in segment["spans"] if span["seconds"]]
    assert spans
    assert all(len(span["seconds"]) == 2 * span["grid"][0] for span in spans)
    cells, out = folder / "recipe" / "cells.parquet", folder / "draft.yaml"
    out.unlink(missing_ok=True)
    draft = subprocess.run(
        [*command, "init", str(cells), "--out", str(out)], capture_output=True, text=True, check=True
    )
    # The clip is 420 of them.
    assert "about 426 tokens" in draft.stdout
    looked = subprocess.run(
        [*command, "peek", str(folder / "recipe" / "llava.json")], capture_output=True, text=True, check=True
    )
    assert "mp4/h264 96 × 64" in looked.stdout
    assert "without sound" in looked.stdout
    subprocess.run([*command, "report", str(report.out)], capture_output=True, check=True)
    page = (report.out / "report.html").read_text()
    assert "data:image/jpeg;base64" in page
    assert "unreadable_image" not in page


def test_without_pyav_a_clip_is_a_drop_that_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    path = write_recipe(tmp_path / "recipe", max_bad=1.0)
    recipe = yaml.safe_load(path.read_text())
    recipe["sources"] = {name: recipe["sources"][name] for name in ("cells", "text")}
    recipe["stages"]["sft"]["mixture"] = {"text": 1.0}
    path.write_text(yaml.safe_dump(recipe))
    report = build(load_recipe(path), tmp_path / "built")
    line = next(line for line in report.funnel if line.step == "scan" and line.source == "cells")
    assert line.reasons == {"unsupported_media": 2}
    drops = pq.read_table(next((report.out / "samples").glob("cells*.drops.parquet"))).column("detail").to_pylist()
    assert all("pip install 'mindvl[video]'" in detail for detail in drops)


@pytest.mark.parametrize("processor", FAMILIES)
def test_a_clip_too_long_for_a_pack_has_fewer_frames_or_is_dropped(tmp_path: Path, processor: str) -> None:
    path = write_recipe(tmp_path / "recipe", processor=processor, video=SMALL | {"fps": 10})
    recipe = yaml.safe_load(path.read_text())
    recipe["stages"]["sft"] |= {"seq_len": 112, "mixture": {"llava": 1.0}}
    left = {}
    for overlong in ("drop", "fewer_frames"):
        recipe["stages"]["sft"]["overlong"] = overlong
        path.write_text(yaml.safe_dump(recipe))
        build(load_recipe(path), tmp_path / overlong)
        funnel = read_manifest(tmp_path / overlong / "sft-112").data["funnel"]
        left[overlong] = next(line["out"] for line in funnel if line["step"] == "fit")
    # Of qwen3-vl the picture beside two clips is too large for such packs by itself.
    assert left["drop"] < left["fewer_frames"] == len(KINDS) + 4 - (processor == "qwen3-vl")
    made = read_manifest(tmp_path / "fewer_frames" / "sft-112")
    assert made.data["resolution"]["video"]["fit_tokens"] == 112
    assert [problem for _, problems in verify(made) for problem in problems] == []
    for pack in packs_of(made):
        for entries in clips_of(pack):
            frames = [frame.index for entry in entries for frame in entry.frames]
            assert len(frames) >= 2
            assert frames == sorted(frames)


@pytest.mark.parametrize("media", ["embed", "reference"])
def test_embedded_frames_are_the_chosen_ones_encoded_anew(
    built: tuple[str, BuildReport, Path], tmp_path: Path, media: str
) -> None:
    family, report, folder = built
    recipe = yaml.safe_load((folder / "recipe" / "recipe.yaml").read_text())
    path = folder / "recipe" / "frames.yaml"
    path.write_text(yaml.safe_dump(recipe | {"embed": "frames", "frame_quality": 95, "media": media}))
    made = only(build(load_recipe(path), tmp_path / "built"))
    assert made.data["resolution"]["video"]["jpeg"] == 95
    assert [problem for _, problems in verify(made) for problem in problems] == []
    rule = FAMILIES[family]
    for pack, again in zip(packs_of(only(report)), packs_of(made), strict=True):
        assert np.array_equal(pack.tokens, again.tokens)
        shown = [[(frame.index, frame.time) for frame in image.frames] for image in pack.images]
        assert shown == [[(frame.index, frame.time) for frame in image.frames] for image in again.images]
        for image in again.images:
            assert not image.is_video or bytes(image.data or b"").startswith(b"\xff\xd8\xff")
        pairs = zip(
            media_patches(pack.images, rule.patch, rule.merge, rule.normalisation),
            media_patches(again.images, rule.patch, rule.merge, rule.normalisation),
            strict=True,
        )
        for one, other in pairs:
            assert np.abs(one - other).mean() < 0.1


def test_the_quickstarts_clips_are_built_and_read(tmp_path: Path) -> None:
    report = build(load_recipe(QUICKSTART / "recipe-video.yaml"), tmp_path / "built")
    assert all(not line.reasons for line in report.funnel)
    made = read_manifest(report.out / "sft-2048")
    assert made.data["mixture"]["sources"]["videos"]["actual"]["epochs"] == 1.0
    grids = {image.grid for pack in packs_of(made) for image in pack.images if image.is_video}
    # Two seconds at four frames a second, in pairs, of 112 pixels a side.
    assert grids == {(4, 8, 8)}
    assert all(len(list(media_patches(pack.images))) == len(pack.images) for pack in packs_of(made))
