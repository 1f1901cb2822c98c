"""The texts of the drawn samples, from the build's samples tables, found by id."""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mindvl_data.errors import UserError
from mindvl_data.manifest import Manifest
from mindvl_data.tables.samples import tables_of
from mindvl_data.tables.videos import VideoTable

FILE = "texts.scratch"
COLUMNS = ["sample_id", "uid", "parts"]
BATCH = 4096
ID = "S16"


class Texts:
    """Goes through the samples tables once and keeps what is said of the drawn samples in one file of lines.

    The tables lie in the order of the sources, the draws in another: to look each up would read a table a draw.
    """

    def __init__(self, manifest: Manifest, scratch: Path) -> None:
        if manifest.store is not None:
            raise UserError(f"{manifest.where}: its texts are not in the store; export its packs, or from disk")
        self._build = Path(manifest.build_folder)
        draws = pq.read_table(manifest.path.parent / manifest.data["draws"]["path"], columns=["sample_id"])
        self._ids = np.unique(_ids(draws["sample_id"].to_pylist()))
        self._places = np.full((len(self._ids), 2), -1, np.int64)
        self._path = scratch / FILE
        with self._path.open("wb") as file:
            for place, line in self._lines():
                self._places[place] = file.tell(), len(line)
                file.write(line)
        self._file = self._path.open("rb")

    def __enter__(self) -> Texts:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        # Of an export that failed the folder may be gone already.
        self._path.unlink(missing_ok=True)

    def __getitem__(self, sample_id: bytes) -> Mapping[str, Any]:
        """`uid` (None where the data has none) and `messages` of a sample. Raises UserError where it is in no table."""
        place = int(np.searchsorted(self._ids, np.frombuffer(sample_id, ID)[0]))
        offset, size = self._places[place].tolist()
        if offset < 0:
            raise UserError(
                f"{self._build / 'samples'}: has no sample {sample_id.hex()}; samples are exported from the folder "
                "that they were built in, after the build that made this manifest"
            )
        self._file.seek(offset)
        found: Mapping[str, Any] = json.loads(self._file.read(size))
        return found

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        for table in tables_of(self._build):
            path = self._build / "samples" / table["rewritten"]
            clips, start = VideoTable(path), 0
            for batch in pq.ParquetFile(path).iter_batches(BATCH, columns=COLUMNS):
                yield from self._drawn(batch, clips, start)
                start += len(batch)

    def _drawn(self, batch: pa.RecordBatch, clips: VideoTable, start: int) -> Iterator[tuple[int, bytes]]:
        ids = _ids(batch.column("sample_id").to_pylist())
        places = np.searchsorted(self._ids, ids)
        rows = np.flatnonzero(self._ids[np.minimum(places, len(self._ids) - 1)] == ids)
        lines = batch.select(COLUMNS[1:]).take(pa.array(rows)).to_pylist()
        for row, line in zip(rows, lines, strict=True):
            said = {
                "uid": line["uid"],
                "messages": messages(line["parts"], clips.numbers(start + int(row))),
                "tools": tools(line["parts"]),
            }
            yield int(places[row]), json.dumps(said, ensure_ascii=False).encode()


def _ids(values: Sequence[bytes]) -> Any:
    return np.frombuffer(b"".join(values), ID)


def messages(parts: Sequence[Mapping[str, Any]], clips: Collection[int] = ()) -> list[dict[str, Any]]:
    """Parts of the samples table as messages whose content is a list of texts and places of images and videos.

    `loss` and `weight` are there where the data says of a turn whether it is trained on, and what it weighs; what a
    message says beside its content under OpenAI's names.

    Args:
        clips: Which of the images are clips.
    """
    found, places = [], itertools.count()
    said = (part for part in parts if part["field"] != "tools")
    for _, turn in itertools.groupby(said, key=lambda part: part["turn"]):
        mine = list(turn)
        content = [
            {"type": "video" if next(places) in clips else "image"}
            if part["text"] is None
            else {"type": "text", "text": part["text"]}
            for part in mine
            if part["field"] is None
        ]
        message: dict[str, Any] = {"role": mine[0]["role"], "content": content or None}
        message |= {part["field"]: part["text"] for part in mine if part["field"] is not None}
        if "tool_calls" in message:
            message["tool_calls"] = json.loads(message["tool_calls"])
        message |= {name: mine[0][name] for name in ("loss", "weight") if mine[0][name] is not None}
        found.append(message)
    return found


def tools(parts: Sequence[Mapping[str, Any]]) -> list[Any] | None:
    """The tools of a conversation, None where it has none."""
    return next((json.loads(part["text"]) for part in parts if part["field"] == "tools"), None)
