"""Texts written anew by a model: a caption or an answer is replaced, and what it was stays in the samples table."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mindvl_data.recipe.rewrite import Rewrite
from mindvl_data.runtime import seals
from mindvl_data.steps.scores.chat import NoReply
from mindvl_data.steps.scores.judge import TOKENS, Question, chat_of, gathered, messages
from mindvl_data.steps.scores.samples import Asked
from mindvl_data.tables.schema import PARTS, SAMPLES

ROLE = {"caption": "caption", "answer": "assistant"}
COLUMNS = {"reply": pl.String(), "reason": pl.String()}
# Of the replies: see clip.py.
VERSION = 1


def replaceable(samples: Path, replace: str) -> NDArray[np.bool_]:
    """Which lines of a samples table have exactly one text that is a caption (an answer), bool [n]."""
    parts = pl.read_parquet(samples, columns=["parts"])["parts"]
    part = pl.element().struct
    said = part.field("text").is_not_null() & part.field("field").is_null() & (part.field("role") == ROLE[replace])
    return (parts.list.eval(said).list.sum() == 1).to_numpy()


def replies(rule: Rewrite, todo: Iterable[Asked]) -> Iterator[pl.DataFrame]:
    """What the endpoint writes for each sample, as it comes; null with a reason where that is nothing to train on."""
    chat = chat_of(rule)

    def written(asked: Question) -> dict[str, Any]:
        line: dict[str, Any] = {"key": asked.key, "reply": None, "reason": None, **dict.fromkeys(TOKENS, 0)}
        try:
            said = chat.ask(messages(rule, rule.prompt, asked))
        except NoReply as error:
            if not error.final and rule.unanswered == "stop":
                raise
            return {**line, "reason": error.why}
        text = said.text.strip()
        tokens = {"prompt_tokens": said.prompt_tokens, "completion_tokens": said.completion_tokens}
        if not 0 < len(text) <= rule.most_chars:
            return {**line, **tokens, "reason": f"{len(text)} characters, most_chars is {rule.most_chars}"}
        return {**line, **tokens, "reply": text}

    schema = {"key": pl.Binary(), **COLUMNS, **TOKENS}
    for lines in gathered(rule, written, todo, f"rewrite {rule.name}"):
        yield pl.DataFrame(lines, schema=schema, orient="row")


@dataclass(frozen=True)
class ReplaceTask:
    """A samples table, the lines whose text is replaced (int64 [m]), by what, and the table to write."""

    samples: Path
    replace: str
    rows: NDArray[np.int64]
    texts: tuple[str, ...]
    out: Path


def replace_texts(task: ReplaceTask) -> None:
    """Write `task.out`: the samples table with the texts replaced, and what is counted and hashed of them."""
    table = pq.read_table(task.samples, schema=SAMPLES)
    old = table.take(task.rows)
    lines = [_replaced(line, task.replace, text) for line, text in zip(old.to_pylist(), task.texts, strict=True)]
    for name, kind in (("parts", PARTS), ("text_chars", pa.int32()), ("text_hash", pa.binary(32))):
        place = SAMPLES.get_field_index(name)
        old = old.set_column(place, SAMPLES.field(name), pa.array([line[name] for line in lines], kind))
    order = np.arange(len(table))
    order[task.rows] = len(table) + np.arange(len(task.rows))
    with seals.sealed(task.out) as partial:
        pq.write_table(pa.concat_tables([table, old]).take(pa.array(order)), partial, compression="zstd")


def _replaced(line: dict[str, Any], replace: str, text: str) -> dict[str, Any]:
    """Counted and hashed as the scan does it."""
    role = ROLE[replace]
    said = [part["text"] is not None and not part["field"] and part["role"] == role for part in line["parts"]]
    parts = [{**part, "text": text} if mine else part for part, mine in zip(line["parts"], said, strict=True)]
    texts = [part["text"] or "" for part in parts]
    digest = hashlib.sha256("\0".join(texts).encode()).digest()
    return {"parts": parts, "text_chars": sum(map(len, texts)), "text_hash": digest}
