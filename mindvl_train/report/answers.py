"""The answers of a run's checkpoints as text: a question a row, a checkpoint a column."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from mindvl_data.manifest import ManifestError, read_manifest
from mindvl_data.note import read_note
from mindvl_train.config.run_folder import RECORD
from mindvl_train.weights.tokenizers import QWEN, find_tokenizer

Decode: TypeAlias = Callable[[Sequence[int]], str]
# Of a question, its last characters.
SHOWN = 1200
IMAGE = "<|image_pad|>"
ENDS = ("<|im_end|>", "<|endoftext|>")


def answered(records: Sequence[Mapping[str, Any]], decode: Decode) -> list[dict[str, Any]]:
    """Every question with what was said to it: sample, source, question, expected, said (step, stage, text)."""
    questions: dict[str, dict[str, Any]] = {}
    for record in records:
        if record["event"] != "answers":
            continue
        for one in record["answers"]:
            row = questions.setdefault(
                one["sample"],
                {
                    "sample": one["sample"],
                    "source": one["source"],
                    "question": _without_pads(decode(one["prompt"]))[-SHOWN:],
                    "expected": _without_end(decode(one["expected"])),
                    "said": [],
                },
            )
            said = {"step": record["step"], "stage": record["stage"] or "the beginning", "text": decode(one["said"])}
            row["said"].append(said)
    return list(questions.values())


def _without_end(text: str) -> str:
    """An answer as generation gives it: without the token that ends it."""
    for end in ENDS:
        text = text.removesuffix(end)
    return text


def _without_pads(text: str) -> str:
    """A run of placeholders as one: a picture."""
    first, *rest = text.split(IMAGE)
    return "[picture]".join([first, *filter(None, rest)])


def decoder_for(run: Path, tokenizer: Path | None) -> tuple[Decode, str]:
    """Ids as text by the tokenizer named, or the one that the data was built with; else as they are, and why.

    Args:
        run: the run's folder.
        tokenizer: a `tokenizer.json`, a folder with one, `qwen`, or None.

    Raises:
        TokenizerError: it is there and cannot be read.
    """
    path = tokenizer or _noted(run)
    found = path and find_tokenizer(path)
    if not found:
        named = f"{tokenizer} is not there" if tokenizer else "the data's tokenizer.json is not at hand"
        return lambda ids: " ".join(map(str, ids)), f"Tokens are shown by their ids: {named}; name it with --tokenizer."
    read = found.read()
    return lambda ids: str(read.decode(list(ids), skip_special_tokens=False)), ""


def _noted(run: Path) -> Path | None:
    """The tokenizer that this user's own build noted beside the run's first set."""
    try:
        record = json.loads((run / RECORD).read_text())
        first = next(stage["manifest"] for stage in record["stages"].values() if "manifest" in stage)
        note = read_note(read_manifest(Path(record["data"]) / first).build_folder)
    except (OSError, ValueError, KeyError, StopIteration, ManifestError):
        return None
    if note is None:
        return None
    return QWEN if note.tokenizer == str(QWEN) else Path(note.recipe_folder) / note.tokenizer
