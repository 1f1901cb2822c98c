"""Rows of tars: the JSON of every key is a row, the pictures beside it are its `images`, the clips its `videos`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mindvl_data.sources import Asked, ImageBytes, Row, Unusable
from mindvl_data.sources.archive import Group, samples_of
from mindvl_data.sources.files import SourceFile
from mindvl_data.sources.json_object import whole_object
from mindvl_data.sources.mapped import FileBytes
from mindvl_data.sources.members import member_bytes
from mindvl_data.sources.webdataset import shape_in
from mindvl_data.tables.schema import Drop


def tar_rows(file: SourceFile, columns: Sequence[str], asked: Asked) -> Iterator[tuple[str, Row | Drop]]:
    """(key, row) for every key, or (key, Drop)."""
    data, uri, samples = samples_of(file)
    for key, found in samples:
        yield key, found if isinstance(found, Drop) else _row(found, data, uri, asked)


def _row(group: Group, data: FileBytes, uri: str | None, asked: Asked) -> Row | Drop:
    _, suffixes, offsets, sizes = group
    try:
        shape = shape_in(group, data)
        if shape.json is None:
            raise Unusable("malformed_record", f"no {group.key}.json beside {', '.join(suffixes)}")
        row = asked.renamed(whole_object(member_bytes(data, offsets[shape.json], sizes[shape.json])))
    except Unusable as error:
        return error.drop
    view = data.view
    media = {i: ImageBytes(view[offsets[i] : offsets[i] + sizes[i]], uri, offsets[i]) for i in shape.images}
    images = [found for i, found in media.items() if i not in shape.videos]
    videos = [found for i, found in media.items() if i in shape.videos]
    row = {**row, "images": images, "image": None} if images else row
    return {**row, "videos": videos, "video": None} if videos else row
