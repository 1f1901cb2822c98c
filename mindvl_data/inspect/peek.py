"""A first look at a file: which format it is, what the engine makes of its first samples, the YAML to paste."""

from __future__ import annotations

import itertools
import posixpath
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.text import Text

from mindvl_data import vision
from mindvl_data.errors import UserError
from mindvl_data.inspect.fields import single_fields
from mindvl_data.recipe import Boxes
from mindvl_data.runtime import plugins
from mindvl_data.sources import (
    DEFAULT_RENDER,
    GROUP,
    Asked,
    Failed,
    Image,
    ImageBytes,
    Record,
    Sample,
    Scattered,
    SourceError,
    Unusable,
    Video,
)
from mindvl_data.sources.files import FingerprintCache, SourceFile, source_files
from mindvl_data.sources.measuring import clip_of
from mindvl_data.tables.samples import SURROGATES, clean
from mindvl_data.tables.schema import BOXES, Drop, shortened
from mindvl_data.tokenise.grounding import BadBox, grounded
from mindvl_data.vision.video.probe import MAX_FRAMES
from mindvl_data.vision.video.rule import QWEN2_VIDEO, TEMPORAL_PATCH

LOOKED_AT = 50
# A screen: of a sample, the first of each.
SHOWN_IMAGES, SHOWN_TURNS = 4, 8
SHOWN_FRAMES = 12
ASKED = Asked(keep=(BOXES,), boxes=True)
# Which scale boxes are taken for, where their numbers fit several.
SCALES = ("unit", "pixels", "thousand")


# Of a folder that says nothing of itself, the first of these is looked at.
DATA_FILES = (".tar", ".tgz", ".parquet", ".arrow", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".mds")
HINT = " (relative to the recipe's folder)"


class PeekError(UserError):
    """A file that no reader makes samples of; the message says what each reader found."""


@dataclass(frozen=True)
class Peek:
    """What one reader made of the first records of a file. fields: of the data, that hold a single value."""

    path: str
    format: str
    render: str
    records: Sequence[Record]
    fields: Sequence[str] = ()

    @property
    def samples(self) -> list[Sample]:
        return [record for record in self.records if isinstance(record, Sample)]

    @cached_property
    def boxes(self) -> Mapping[str, int]:
        """How many samples have boxes that lie in their picture, by the scale they would have; {} without boxes."""
        fits = {scale: [_fits(sample, scale) for sample in self.samples] for scale in SCALES}
        found = {scale: fit.count(True) for scale, fit in fits.items()}
        return found if any(fit.count(None) < len(fit) for fit in fits.values()) else {}

    @property
    def scale(self) -> str | None:
        """What `boxes.from` is likely to be."""
        return max(self.boxes, key=lambda scale: self.boxes[scale]) if self.boxes else None

    @property
    def problems(self) -> Counter[str]:
        return Counter(record.drop.reason for record in self.records if isinstance(record, Failed))


def peek(path: Path | str, looked_at: int = LOOKED_AT) -> Peek:
    """The reader that makes the most samples of the first records. Raises PeekError when none makes any."""
    file, where = _file(str(path))
    looks, refused, fields = [], [], single_fields(file)
    for name in plugins.names(GROUP):
        reader = plugins.load(GROUP, name)
        try:
            records = first_records(file, reader, ASKED, looked_at)
        except Exception as error:  # noqa: BLE001, every reader is tried, and what a library raises says: not this one
            refused.append(f"  {name}: {error}")
            continue
        look = Peek(where, name, _render(reader, records), records, fields)
        if look.samples:
            looks.append(look)
        else:
            reasons = ", ".join(f"{count} {reason}" for reason, count in look.problems.items())
            refused.append(f"  {name}: {reasons or 'no records'}")
    if not looks:
        named = (
            f" (its fields: {', '.join(fields)}; `columns: {{caption: FIELD}}` of a source says what stands for what)"
            if fields
            else ""
        )
        raise PeekError(f"{path}: no reader makes a sample of it{named}:\n" + "\n".join(refused))
    # Of readers that make as much of it: the one whose own kind of file it is, where others read tars as rows.
    return max(looks, key=lambda look: (len(look.samples), sum(len(s.images) for s in look.samples), _is_own(look)))


def first_records(file: SourceFile, reader: Any, asked: Asked, looked_at: int = LOOKED_AT) -> list[Record]:
    """The first records of a file, the images that they name by path read. Raises what the reader raises."""
    try:
        return [_opened(file, record) for record in itertools.islice(reader(file, asked), looked_at)]
    except Scattered:
        return first_records(replace(file, one_pass=False), reader, asked, looked_at)


def _is_own(look: Peek) -> bool:
    return look.format == "webdataset"


def _render(reader: Any, records: Sequence[Record]) -> str:
    """How the reader's texts are rendered; captions and plain texts written as messages say so by their role."""
    roles = {part.role for record in records if isinstance(record, Sample) for part in record.parts}
    by_role = {frozenset({"caption"}): "caption", frozenset({"text"}): "plain"}
    return by_role.get(frozenset(roles), str(getattr(reader, "render", DEFAULT_RENDER)))


def _fits(sample: Sample, scale: str) -> bool | None:
    """Whether a sample's boxes lie in its pictures when read at this scale; None for one without boxes."""
    rule = Boxes.model_validate({"from": scale, "write": "resized"})
    try:
        headers = [vision.read_header(image.data) for image in sample.images if isinstance(image, ImageBytes)]
        sizes = [(header.width, header.height) for header in headers]
        found = grounded(sample.parts, sizes, rule, sample.data.get(BOXES))
    except vision.BadImage:
        return None
    except BadBox:
        return False
    return True if found and found.boxes else None


def _opened(file: SourceFile, record: Record) -> Record:
    """A record with the images that it names by path read, or why that is impossible."""
    if isinstance(record, Failed):
        return record
    if any(SURROGATES.search(part.text or "") for part in record.parts):
        return Failed(record.key, Drop("invalid_utf8", "its text is not UTF-8"))
    try:
        return record._replace(images=[file.opened(image) for image in record.images])
    except Unusable as error:
        return Failed(record.key, error.drop)


def _file(path: str) -> tuple[SourceFile, str]:
    """The first file of a path, a folder, a glob or a URL, and the path for a recipe. Raises PeekError."""
    folder, name = (Path(), path) if "://" in path else (Path(path).absolute().parent, Path(path).name)
    if not {"*", "?", "["}.isdisjoint(path) and "://" not in path and not Path(path).exists():
        folder, name = Path.cwd(), path
    try:
        return source_files((name,), (name,), None, folder, FingerprintCache())[0], path
    except SourceError as error:
        inside = Path(path)
        if not inside.is_dir():
            raise PeekError(f"{path}: {str(error).partition(': ')[2].removesuffix(HINT)}") from error
    for found in sorted(inside.rglob("[!.]*")):
        if found.is_file() and found.name.removesuffix(".gz").removesuffix(".zst").endswith(DATA_FILES):
            return _file(str(found))
    raise PeekError(f"{path}: a folder without a file that ends in {', '.join(DATA_FILES)}")


def described(sample: Sample, resolution: vision.Resolution) -> dict[str, Any]:
    """One sample as data: its turns, and its images with size, grid and tokens, or what is wrong with them.

    The place of an image is written `[image 1]`: an `<image>` is text.
    """
    turns: list[dict[str, Any]] = []
    places = itertools.count(1)
    for part in sample.parts:
        if not turns or turns[-1]["turn"] != part.turn:
            turns.append({"turn": part.turn, "role": part.role, "text": ""})
        said = f"[image {next(places)}]" if part.text is None else part.text
        turns[-1]["text"] += f"[{part.field}: {said}] " if part.field else said
    return {
        "key": clean(sample.key),
        "uid": sample.uid and clean(sample.uid),
        "turns": [{"role": turn["role"], "text": turn["text"]} for turn in turns],
        "images": [_medium(image, resolution) for image in sample.images],
    }


def _medium(image: Image, resolution: vision.Resolution) -> dict[str, Any]:
    if isinstance(image, Video):
        return described_video(image, resolution)
    return _image(image.data, resolution) if isinstance(image, ImageBytes) else {"problem": "missing_image"}


def described_video(video: Video, resolution: vision.Resolution) -> dict[str, Any]:
    """A clip by its header, and what the family's rule makes of it."""
    media = [medium for medium in video.media if isinstance(medium, ImageBytes)]
    size = sum(len(medium.data) for medium in media)
    rule = resolution.video or QWEN2_VIDEO
    try:
        line, width, height = clip_of(video, media, vision.MAX_IMAGE_PIXELS, MAX_FRAMES)
        chosen = rule.chosen(line.frames, line.rate)
        wide, high = rule.resized(len(chosen), width, height, resolution.patch * resolution.merge)
    except (vision.BadImage, Unusable, UserError) as error:
        return {"bytes": size, "problem": str(error)}
    grid = [-(-len(chosen) // TEMPORAL_PATCH), high // resolution.patch, wide // resolution.patch]
    return {
        "bytes": size,
        "format": f"{line.container}/{line.codec}",
        "width": width,
        "height": height,
        "frames": line.frames,
        "fps": round(line.rate, 3),
        "duration": round(line.duration, 3),
        "has_audio": line.has_audio,
        "seconds": [round(float(frame.time), 3) for frame in line.chosen(chosen)],
        "patches": grid,
        "tokens": grid[0] * grid[1] * grid[2] // resolution.merge**2,
    }


def _image(data: bytes | memoryview, resolution: vision.Resolution) -> dict[str, Any]:
    try:
        header = vision.read_header(data)
        _, high, wide = vision.patch_grid(header.width, header.height, resolution)
    except vision.BadImage as error:
        return {"bytes": len(data), "problem": f"{error.reason}: {error.detail}"}
    return {
        "bytes": len(data),
        "format": header.format,
        "width": header.width,
        "height": header.height,
        "patches": [high, wide],
        "tokens": high * wide // resolution.merge**2,
    }


def recipe_lines(look: Peek) -> str:
    """The YAML of the source, to paste into a recipe."""
    stem = posixpath.basename(look.path).split(".")[0]
    name = "".join(letter if letter.isalnum() else "_" for letter in stem).strip("_")
    return yaml.safe_dump({"sources": {name or "data": source_of(look)}}, sort_keys=False, allow_unicode=True).rstrip()


def source_of(look: Peek) -> dict[str, Any]:
    """A recipe's source, as YAML has it."""
    kind = {"caption": "caption", "plain": "text"}.get(look.render, "instruction")
    source: dict[str, Any] = {"format": look.format, "path": look.path, "kind": kind}
    if look.render != getattr(plugins.load(GROUP, look.format), "render", DEFAULT_RENDER):
        source["render"] = look.render
    if look.scale:
        source["boxes"] = {"from": look.scale, "write": "resized"}
    return source


def view(look: Peek, shown: int, resolution: vision.Resolution) -> RenderableType:
    """A look for a person."""
    head = Text(f"{look.path}: {look.format}, rendered as {look.render}; ", style="bold")
    head.append(f"{len(look.samples)} of the first {len(look.records)} records are samples")
    problems = [
        Text(f"{count} × {reason}, for example {_example(look, reason)}", style="red")
        for reason, count in look.problems.most_common()
    ]
    if look.scale:
        fit = ", ".join(f"{number} as {scale}" for scale, number in look.boxes.items())
        problems.append(Text(f"There are boxes in the texts; samples whose boxes lie in their picture: {fit}"))
    panels = [_panel(described(sample, resolution)) for sample in look.samples[:shown]]
    named = [Text(f"Fields of the data that filters can name: {', '.join(look.fields)}")] if look.fields else []
    paste = Text("To paste into a recipe:", style="bold")
    return Group(head, *problems, *panels, *named, paste, Text(recipe_lines(look)))


def _example(look: Peek, reason: str) -> str:
    found = next(r for r in look.records if isinstance(r, Failed) and r.drop.reason == reason)
    return f"{found.key or posixpath.basename(look.path)}: {clean(found.drop.detail)}"


def _said(image: Mapping[str, Any]) -> str:
    """An image or a clip in words."""
    patches = " × ".join(map(str, image["patches"]))
    said = f"{image['format']} {image['width']} × {image['height']}, {patches} patches, {image['tokens']} tokens"
    if "frames" not in image:
        return said
    seconds = " ".join(f"{time:.1f}" for time in image["seconds"][:SHOWN_FRAMES])
    more = " …" if len(image["seconds"]) > SHOWN_FRAMES else ""
    sound = "with sound" if image["has_audio"] else "without sound"
    return f"{said}; {image['frames']} frames, {image['fps']:g} a second, {sound}; looked at: {seconds}{more} s"


def _panel(sample: dict[str, Any]) -> Panel:
    body = Text()
    for image in sample["images"][:SHOWN_IMAGES]:
        line = image.get("problem") or _said(image)
        body.append(f"[{line}]\n", style="red" if "problem" in image else "cyan")
    if more := sample["images"][SHOWN_IMAGES:]:
        body.append(f"[… and {len(more)} more images]\n", style="cyan")
    for turn in sample["turns"][:SHOWN_TURNS]:
        body.append(f"{turn['role']}: ", style="bold")
        body.append(f"{shortened(turn['text'].strip())}\n")
    if more := sample["turns"][SHOWN_TURNS:]:
        body.append(f"… and {len(more)} more turns\n")
    body.rstrip()
    return Panel(body, title=f"{sample['key']} {sample['uid'] or ''}".strip(), title_align="left")
