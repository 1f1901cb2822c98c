"""The parts of a batch of samples as columns, and what is alike among the samples.

Most samples of a source are built alike (an image and a caption; a question and an answer) and differ in their texts
alone: what a render makes of them is found once for each way of being built, not once a sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mindvl_data.tables.schema import Control, Part

NO_TEXT, EMPTY, TEXT, CONTROL = range(4)


@dataclass(frozen=True)
class PartColumns:
    """The parts of samples one after another.

    turns: int64 [parts]. roles: int64 [parts] into role_names. loss: int8 [parts], -1 where the part says nothing.
    texts [parts]: None is an image. controls: bool [parts], where a text is the name of a control token.
    starts: int64 [samples + 1], where each sample's parts begin. fields [parts]: see schema.FIELDS.
    weights: float32 [parts], NaN where the part says nothing.
    """

    turns: NDArray[np.int64]
    roles: NDArray[np.int64]
    role_names: Sequence[str]
    loss: NDArray[np.int8]
    texts: Sequence[str | None]
    controls: NDArray[np.bool_]
    starts: NDArray[np.int64]
    fields: Sequence[str | None]
    weights: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def sample(self, number: int) -> list[Part]:
        """The parts of one sample."""
        return [self._part(place) for place in range(*self.starts[number : number + 2].tolist())]

    def _part(self, place: int) -> Part:
        loss = int(self.loss[place])
        kind = Control if self.controls[place] else Part
        role = self.role_names[self.roles[place]]
        weight = None if np.isnan(self.weights[place]) else float(self.weights[place])
        said = None if loss < 0 else bool(loss)
        return kind(int(self.turns[place]), role, said, self.texts[place], self.fields[place], weight)

    def forms(self) -> list[bytes]:
        """How each sample is built: equal for samples whose parts differ in nothing but their texts.

        Held apart are a text, an empty one, an image and each control token; roles, loss, weights, fields, and where
        a turn ends.
        """
        names: dict[str | None, int] = {}
        controls = [names.setdefault(self.texts[place], len(names)) for place in np.flatnonzero(self.controls).tolist()]
        contents = np.fromiter(map(_content, self.texts), np.int64, len(self.texts))
        contents[self.controls] = CONTROL + np.array(controls, np.int64)
        if any(self.fields) or not np.isnan(self.weights).all():
            kinds: dict[Any, int] = {}
            said = zip(contents.tolist(), self.fields, self.weights.view(np.int32).tolist(), strict=True)
            contents = np.array([kinds.setdefault(each, len(kinds)) for each in said], np.int64)
            names = dict.fromkeys(map(str, range(max(0, len(kinds) - CONTROL))), 0)
        new_turn = np.diff(self.turns, prepend=-1) != 0
        new_turn[self.starts[:-1][np.diff(self.starts) > 0]] = True
        codes = ((self.roles * 2 + new_turn) * 3 + self.loss + 1) * (CONTROL + len(names)) + contents
        raw, width = codes.astype(np.int64).tobytes(), 8
        return [raw[width * start : width * stop] for start, stop in pairwise(self.starts.tolist())]


def _content(text: str | None) -> int:
    return NO_TEXT if text is None else TEXT if text else EMPTY


def of_samples(samples: Sequence[Sequence[Part]]) -> PartColumns:
    """Samples given as lists of parts."""
    parts = list(chain.from_iterable(samples))
    names: dict[str, int] = {}
    return PartColumns(
        turns=np.array([part.turn for part in parts], np.int64),
        roles=np.array([names.setdefault(part.role, len(names)) for part in parts], np.int64),
        role_names=list(names),
        loss=np.array([-1 if part.loss is None else part.loss for part in parts], np.int8),
        texts=[part.text for part in parts],
        controls=np.array([isinstance(part, Control) for part in parts], bool),
        starts=np.cumsum([0, *map(len, samples)], dtype=np.int64),
        fields=[part.field for part in parts],
        weights=np.array([np.nan if part.weight is None else part.weight for part in parts], np.float32),
    )


def of_column(column: pa.ListArray) -> PartColumns:
    """The column `parts` of the samples table."""
    fields = column.flatten()
    roles = fields.field("role").dictionary_encode()
    return PartColumns(
        turns=fields.field("turn").to_numpy(zero_copy_only=False).astype(np.int64),
        roles=roles.indices.to_numpy(zero_copy_only=False).astype(np.int64),
        role_names=roles.dictionary.to_pylist(),
        loss=fields.field("loss").cast(pa.int8()).fill_null(-1).to_numpy(zero_copy_only=False),
        texts=fields.field("text").to_pylist(),
        controls=np.zeros(len(fields), bool),
        starts=np.concatenate([[0], np.cumsum(column.value_lengths().to_numpy(), dtype=np.int64)]),
        fields=fields.field("field").to_pylist(),
        weights=fields.field("weight").fill_null(np.nan).to_numpy(zero_copy_only=False),
    )
