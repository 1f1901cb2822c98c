"""WebDataset tars as img2dataset and DataComp write them: members that share a key make one sample."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from mindvl_data.sources import (
    Asked,
    Failed,
    Image,
    ImageBytes,
    Record,
    Row,
    Sample,
    Unusable,
    Video,
    attempt,
    first_text,
    further_texts,
    uid_of,
)
from mindvl_data.sources.archive import Group, samples_of
from mindvl_data.sources.files import SourceFile
from mindvl_data.sources.json_object import object_fields
from mindvl_data.sources.mapped import FileBytes
from mindvl_data.sources.members import FIRST_BYTES, Shape, looked_at, member_bytes, member_text, shape_of
from mindvl_data.sources.pieces import tar_pieces
from mindvl_data.sources.places import Media, has_markers, placed
from mindvl_data.tables.schema import Drop, Part

CAPTION_FIELDS = ("text", "caption", "uid")
EMPTY: Final[Row] = {}


def read(file: SourceFile, asked: Asked) -> Iterator[Record]:
    """One sample a key: its images, then its caption (`.txt`, else the JSON's `text` or `caption`)."""
    data, uri, samples = samples_of(file)
    parse = _Parser(uri, asked)
    for key, found in samples:
        yield Failed(key, found) if isinstance(found, Drop) else attempt(key, parse, found, data)


class _Parser:
    """A group to a sample, by what the recipe asks for."""

    def __init__(self, uri: str | None, asked: Asked) -> None:
        self._uri = uri
        self._asked = asked
        self._fields = object_fields({*CAPTION_FIELDS, *asked.columns.values(), *asked.keep})

    def __call__(self, key: str, group: Group, data: FileBytes) -> Sample:
        shape = shape_in(group, data)
        _, suffixes, offsets, sizes = group
        asked, row = self._asked, EMPTY
        if shape.json is not None:
            row = asked.renamed(self._fields(member_bytes(data, offsets[shape.json], sizes[shape.json])))
        txt = None
        if shape.txt is not None and "caption" not in asked.columns:
            txt = member_text(data, offsets[shape.txt], sizes[shape.txt])
        names = ("caption",) if "caption" in asked.columns else ("text", "caption")
        caption = first_text(txt, *map(row.get, names), where="its .txt, and in text and caption of its .json")
        if not shape.images:
            raise Unusable(
                "missing_image", f"none of {', '.join(suffixes)} is a picture; format: text reads text alone"
            )
        view, uri = data.view, self._uri
        found = {i: ImageBytes(view[offsets[i] : offsets[i] + sizes[i]], uri, offsets[i]) for i in shape.images}
        parts, media = _placed([Part(0, "caption", None, caption)], found, shape)
        unused = (*(suffixes[i] for i in shape.unknown), *further_texts(**{name: row.get(name) for name in names}))
        return Sample(key, parts, media, uid_of(row, "uid"), asked.kept(row) if asked.keep else {}, unused)


def _placed(parts: list[Part], found: Mapping[int, ImageBytes], shape: Shape) -> tuple[list[Part], list[Image]]:
    """The caption with the places of the group's media: before it, in the order of their names, or where it says."""
    by_name: list[Image] = [Video((found[i],)) if i in shape.videos else found[i] for i in shape.images]
    videos = [medium for medium in by_name if isinstance(medium, Video)]
    media = Media([medium for medium in by_name if not isinstance(medium, Video)], videos)
    named = has_markers(parts, media)
    parts, in_order = placed(parts, media)
    return parts, in_order if named else by_name


def shape_in(group: Group, data: FileBytes) -> Shape:
    """What the members of a group are. Raises Unusable for two of one name, and for sound."""
    shape = shape_of(group.suffixes)
    if shape.unknown:
        ends = [(group.offsets[i], group.offsets[i] + min(group.sizes[i], FIRST_BYTES)) for i in shape.unknown]
        shape = looked_at(shape, group.suffixes, (data.data[start:stop] for start, stop in ends))
    if shape.twice:
        raise Unusable("malformed_record", f"two members are called {group.key}.{shape.twice}")
    if shape.unsupported:
        raise Unusable("unsupported_media", f"{group.key}.{shape.unsupported}")
    return shape


read.render = "caption"  # type: ignore[attr-defined]
read.pieces = tar_pieces  # type: ignore[attr-defined]
