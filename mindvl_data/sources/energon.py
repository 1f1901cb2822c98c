"""Energon: WebDataset tars under a `.nv-meta/dataset.yaml` that says which member is which field of a sample."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from mindvl_data.errors import reading
from mindvl_data.runtime import yaml_text
from mindvl_data.sources import (
    Asked,
    Failed,
    Image,
    ImageBytes,
    Record,
    Row,
    Sample,
    SourceError,
    Unusable,
    Video,
    attempt,
    uid_of,
)
from mindvl_data.sources.archive import Group, samples_of
from mindvl_data.sources.files import SourceFile, store_of
from mindvl_data.sources.mapped import FileBytes
from mindvl_data.sources.members import FIRST_BYTES, kind_by_bytes, kind_of, member_text
from mindvl_data.sources.webdataset import shape_in
from mindvl_data.tables.schema import Drop, Part

META = ".nv-meta/dataset.yaml"
FIELD = re.compile(r"^([\w.,]+)((?:\[\w+\])*)$")
LEVELS = 8


def read(file: SourceFile, asked: Asked) -> Iterator[Record]:
    """One sample a key, of one of the types in TYPES. Raises SourceError for others and for data read by code."""
    parse, fields = _described(file)
    data, uri, samples = samples_of(file)
    for key, found in samples:
        if isinstance(found, Drop):
            yield Failed(key, found)
        else:
            yield attempt(key, _sample, found, data, uri, asked, parse, fields)


def _described(file: SourceFile) -> tuple[Parse, Mapping[str, str]]:
    """How a sample is made, and the member (`jpg`, `json[caption]`) of each field."""
    fs, place = store_of(file.place)
    index = next((path for path in _indexes(place) if fs.isfile(path)), META)
    with reading(index, "a sample type and a field map", SourceError):
        data = yaml_text.parse(fs.cat_file(index).decode())
        kind = (data.get("sample_type") or data)["__class__"].removesuffix("Webdataset").removesuffix("Sample")
        fields = dict(data["field_map"]) if kind in TYPES else {}
    if kind not in TYPES or not all(isinstance(member, str) and FIELD.match(member) for member in fields.values()):
        raise SourceError(
            f"{index}: samples of the type {kind} or a field that is no member of the tar cannot be read: Energon "
            f"reads them by code, which is never run here; there are: {', '.join(TYPES)}. Try webdataset or messages"
        )
    return TYPES[kind], fields


def _indexes(place: str) -> Iterator[str]:
    """Where a tar's description may lie: beside it, or above it."""
    for _ in range(LEVELS):
        place = posixpath.dirname(place)
        yield posixpath.join(place, META)


def _sample(
    key: str, group: Group, data: FileBytes, uri: str | None, asked: Asked, parse: Parse, fields: Mapping[str, str]
) -> Sample:
    shape_in(group, data)
    row = {name: _field(group, data, uri, member) for name, member in fields.items()}
    sample = parse(key, row)
    if "json" not in group.members or not (asked.keep or sample.uid is None):
        return sample
    meta = asked.renamed(_json(member_text(data, *group.members["json"])))
    return sample._replace(uid=uid_of(meta, "uid"), data=asked.kept(meta))


def _field(group: Group, data: FileBytes, uri: str | None, member: str) -> Any:
    """A member's value: an image or a clip where it lies, text, or what a path into its JSON leads to."""
    found = FIELD.match(member)
    assert found is not None
    suffix, path = found.groups()
    options = [name for name in suffix.split(",") if name in group.members]
    if not options:
        raise Unusable("malformed_record", f"no member {group.key}.{suffix}")
    place = group.members[options[0]]
    first = data.data[place[0] : place[0] + min(place[1], FIRST_BYTES)]
    kind = kind_of(options[0]) or kind_by_bytes(first)
    if kind in ("image", "video"):
        medium = ImageBytes(data.view[place[0] : place[0] + place[1]], uri, place[0])
        return medium if kind == "image" else Video((medium,))
    text = member_text(data, *place)
    if not options[0].endswith("json"):
        return text
    value: Any = _json(text)
    for name in re.findall(r"\[(\w+)\]", path):
        try:
            value = value[int(name) if isinstance(value, list) else name]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise Unusable("malformed_record", f"its JSON has no {path}") from error
    return value


def _json(text: str) -> Row:
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unusable("malformed_record", f"its JSON: {error}") from error
    if not isinstance(value, dict):
        raise Unusable("malformed_record", "its JSON is no object")
    return value


def _captioning(key: str, row: Row) -> Sample:
    # Turns, so that it can be rendered as a chat; `render: caption` reads them as well.
    return Sample(key, [Part(0, "user", None, None), _text(row, "caption", "assistant", 1)], [_image(row)])


def _vqa(key: str, row: Row) -> Sample:
    answers = row.get("answers")
    answer = answers[0] if isinstance(answers, list) and answers else answers
    parts = [
        Part(0, "user", None, None),
        _text(row, "context", "user", 0),
        _text({"answers": answer}, "answers", "assistant", 1),
    ]
    return Sample(key, parts, [_image(row)])


def _plain_text(key: str, row: Row) -> Sample:
    return Sample(key, [_text(row, "text", "text", 0)], [])


def _image(row: Row) -> Image:
    for name in ("image", "video"):
        if isinstance(row.get(name), ImageBytes | Video):
            return row[name]  # type: ignore[no-any-return]
    raise Unusable("missing_image", "no field `image` or `video` is a member that is a picture or a clip")


def _text(row: Row, name: str, role: str, turn: int) -> Part:
    if isinstance(row.get(name), str):
        return Part(turn, role, None, row[name])
    raise Unusable("malformed_record", f"the field `{name}` is no text")


Parse = Callable[[str, Row], Sample]
TYPES: Final[dict[str, Parse]] = {
    "Captioning": _captioning,
    "VQA": _vqa,
    "VidQA": _vqa,
    "Text": _plain_text,
}
