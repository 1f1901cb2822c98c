"""Prompts with an answer that can be checked, as verl and TRL's GRPO take them: `prompt` (a text or messages) and
`answer`, `solution`, `ground_truth`, or verl's `reward_model`.

A sample is the prompt and, as the assistant's turn, the answer that is checked: its length is of both, and what is
trained on is the answer. `export --to verl` or `trl` takes them apart again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mindvl_data.sources import Asked, Record, Row, Sample, Unusable
from mindvl_data.sources.files import SourceFile
from mindvl_data.sources.messages import conversation
from mindvl_data.sources.pieces import row_pieces
from mindvl_data.sources.places import MEDIA_FIELDS
from mindvl_data.sources.preferences import PROMPTS, turns
from mindvl_data.sources.rows import samples

ANSWERS = ("answer", "solution", "ground_truth")
FIELDS = (*PROMPTS, "problem")
COLUMNS = (*FIELDS, *ANSWERS, "reward_model", "system", "uid", "id", *MEDIA_FIELDS)


def read(file: SourceFile, asked: Asked) -> Iterator[Record]:
    """One prompt a row or line."""
    return samples(file, asked, COLUMNS, _sample)


def _sample(key: str, row: Row) -> Sample:
    name = next((name for name in FIELDS if row.get(name) is not None), None)
    if name is None:
        raise Unusable("malformed_record", f"a record has a prompt: {', '.join(FIELDS)}")
    prompt, system = turns(row, name, "user"), row.get("system")
    if isinstance(system, str) and system:
        prompt = [{"role": "system", "content": system}, *prompt]
    return conversation(key, {**row, "messages": [*prompt, {"role": "assistant", "content": _answer(row)}]})


def _answer(row: Row) -> str:
    """The answer as text: what a number or a truth is written like."""
    reward = row.get("reward_model")
    said: list[Any] = [row.get(name) for name in ANSWERS]
    said += [reward.get("ground_truth")] if isinstance(reward, dict) else []
    answer = next((each for each in said if each is not None), None)
    if not isinstance(answer, (str, int, float)) or answer == "":
        raise Unusable("malformed_record", f"a record has an answer to be checked: {', '.join(ANSWERS)}")
    return answer if isinstance(answer, str) else str(answer)


read.pieces = row_pieces  # type: ignore[attr-defined]
