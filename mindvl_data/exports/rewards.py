"""`trl` and `verl`: pairs of answers, and prompts with an answer to be checked, as their trainers read them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from mindvl_data.errors import UserError
from mindvl_data.exports.hub import IMAGES, PICTURES, feature_of, images_of, list_of
from mindvl_data.exports.parquet import write_rows
from mindvl_data.exports.records import Record
from mindvl_data.inspect.card import card
from mindvl_data.manifest import Manifest

BLOCKS = pa.list_(pa.struct([("type", pa.string()), ("text", pa.string())]))
CONVERSATION = pa.list_(pa.struct([("role", pa.string()), ("content", BLOCKS)]))
PAIR = {"prompt": CONVERSATION, "chosen": CONVERSATION, "rejected": CONVERSATION}
PROMPT = {"prompt": CONVERSATION, "completion": CONVERSATION, "answer": pa.string()}
BESIDE = {"sample_id": pa.string(), "source": pa.string(), "repeat": pa.int32(), "uid": pa.string()}
MARKERS = ("<image>", "<video>", "<audio>")
VERL = pa.schema(
    [
        ("data_source", pa.string()),
        ("prompt", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        ("images", IMAGES),
        ("ability", pa.string()),
        ("reward_model", pa.struct([("style", pa.string()), ("ground_truth", pa.string())])),
        ("extra_info", pa.struct([("sample_id", pa.string()), ("index", pa.int64()), ("uid", pa.string())])),
    ]
)


class RewardsError(UserError):
    """A sample that these formats have no place for; says which and what to do."""


def trl(records: Iterator[Record], folder: Path, manifest: Manifest) -> None:
    """Parquet for TRL: `prompt`, `chosen`, `rejected` of pairs (DPO); `prompt`, `completion` and `answer` of all else
    (GRPO, whose reward functions get `answer`; SFT). Messages are blocks, pictures the library's Image."""
    (folder / "README.md").write_text(card(manifest.data), encoding="utf-8")
    write_rows(_alike(_trl_row(record) for record in records), folder, _trl_schema)


def verl(records: Iterator[Record], folder: Path, manifest: Manifest) -> None:
    """Parquet for verl: `prompt` with `<image>` in its texts, `images`, and `reward_model.ground_truth`."""
    kinds = {name: source.get("kind", "") for name, source in manifest.data["sources"].items()}
    rows = (_verl_row(record, number, kinds) for number, record in enumerate(records))
    write_rows(rows, folder, lambda names: VERL)


trl.no_packs = verl.no_packs = True  # type: ignore[attr-defined]


def _alike(rows: Iterator[tuple[dict[str, Any], int]]) -> Iterator[tuple[dict[str, Any], int]]:
    """The rows as they are. Raises RewardsError where one is no pair behind one that is, or the other way round."""
    first: list[str] = []
    for row, size in rows:
        first = first or list(row)
        if list(row) != first:
            raise RewardsError(
                f"sample {row['sample_id']}: the set holds pairs and samples that are none; build them as stages of "
                "their own"
            )
        yield row, size


def _is_pair(messages: Sequence[Mapping[str, Any]]) -> bool:
    """A conversation whose last two turns are the assistant's, the last of them not trained on."""
    last = messages[-2:]
    return len(messages) > 2 and [m["role"] for m in last] == ["assistant"] * 2 and last[1].get("loss") is False


def _trl_row(record: Record) -> tuple[dict[str, Any], int]:
    messages = record.meta["messages"]
    beside = {name: record.meta[name] for name in BESIDE}
    pictures = _pictures(record)
    if _is_pair(messages):
        *prompt, chosen, rejected = map(_plain, messages)
        row = {"prompt": prompt, "chosen": [chosen], "rejected": [rejected]}
    else:
        *prompt, last = map(_plain, _answered(record))
        row = {"prompt": prompt, "completion": [last]}
        beside = {"answer": _text(messages[-1]), **beside}
    return {**row, "images": pictures, **beside}, _size(record)


def _verl_row(record: Record, number: int, kinds: Mapping[str, str]) -> tuple[dict[str, Any], int]:
    messages = _answered(record)
    if _is_pair(messages):
        raise RewardsError(
            f"sample {record.meta['sample_id']} is a pair of answers, which verl does not read: --to trl"
        )
    source = record.meta["source"]
    row = {
        "data_source": source,
        "prompt": [{"role": m["role"], "content": _marked(record, m)} for m in messages[:-1]],
        # A name would be taken for a file.
        "images": [{**picture, "path": None} for picture in _pictures(record)],
        "ability": kinds.get(source, ""),
        "reward_model": {"style": "rule", "ground_truth": _text(messages[-1])},
        "extra_info": {"sample_id": record.meta["sample_id"], "index": number, "uid": record.meta["uid"]},
    }
    return row, _size(record)


def _answered(record: Record) -> Sequence[Mapping[str, Any]]:
    messages: Sequence[Mapping[str, Any]] = record.meta["messages"]
    if len(messages) < 2 or messages[-1]["role"] != "assistant":
        raise RewardsError(f"sample {record.meta['sample_id']} does not end with an answer to a prompt")
    return messages


def _pictures(record: Record) -> list[dict[str, Any]]:
    if strange := next((suffix for suffix, _ in record.images if suffix not in PICTURES), None):
        raise RewardsError(
            f"sample {record.meta['sample_id']} has a clip (.{strange}), which this export has no place for"
        )
    return images_of(record)


def _plain(message: Mapping[str, Any]) -> dict[str, Any]:
    content = message["content"] or []
    return {"role": message["role"], "content": [{"text": None, **block} for block in content]}


def _text(message: Mapping[str, Any], place: str = "") -> str:
    content = message["content"] or []
    return "".join(block["text"] if block["type"] == "text" else place for block in content)


def _marked(record: Record, message: Mapping[str, Any]) -> str:
    """The text with a marker for each picture. Raises RewardsError where the text itself has one."""
    if any(marker in _text(message) for marker in MARKERS):
        raise RewardsError(
            f"sample {record.meta['sample_id']} says {' or '.join(MARKERS)} in its text, which verl would take for a "
            "place; filter it out"
        )
    return _text(message, MARKERS[0])


def _size(record: Record) -> int:
    return sum(len(data) for _, data in record.images)


def _trl_schema(names: list[str]) -> pa.Schema:
    types = {**PAIR, **PROMPT, **BESIDE, "images": IMAGES}
    features = {name: feature_of(types[name]) for name in names} | {"images": list_of({"_type": "Image"})}
    note = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema([(name, types[name]) for name in names], metadata=note)
