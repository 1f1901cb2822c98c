"""The same held-out questions, asked at every checkpoint: what the model says beside what it should."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import nn

from mindvl_data.manifest import Manifest
from mindvl_data.shards import Pack
from mindvl_data.stream import PackStream
from mindvl_train.config.schema import AnswersConfig, LoaderConfig
from mindvl_train.data.batch import BatchLayout
from mindvl_train.data.held_out import samples
from mindvl_train.models.generation import generate, prompt_of

# Packs of the held-out set that questions are taken from.
LOOKED_AT = 8
# Tokens of a question that the log keeps, from its end.
KEPT = 512


@dataclass(frozen=True)
class Question:
    """A held-out sample up to its first answer, and that answer's tokens."""

    prompt: Pack
    expected: tuple[int, ...]

    @property
    def described(self) -> dict[str, Any]:
        """What the log says of it: ids without the image's placeholders are left to whoever reads them."""
        tokens = self.prompt.tokens.tolist()
        return {
            "sample": self.prompt.sample_ids[0].hex(),
            "source": self.prompt.sources[0],
            "images": len(self.prompt.images),
            "prompt": tokens[-KEPT:],
            "expected": list(self.expected),
        }


def choose(holdout: Manifest, settings: AnswersConfig, loader: LoaderConfig) -> list[Question]:
    """The shortest questions of the first packs, of every source in turn."""
    stream = PackStream(holdout, 0, 1, 1, epochs=1, media_root=loader.media_root, allow=loader.allow)
    found = [question for pack in islice(stream, LOOKED_AT) for question in _questions(pack, settings.tokens)]
    by_source: dict[str, list[Question]] = {}
    for question in sorted(found, key=lambda one: (len(one.prompt.tokens), one.prompt.sample_ids)):
        by_source.setdefault(question.prompt.sources[0], []).append(question)
    ranked = [(rank, name, one) for name, mine in by_source.items() for rank, one in enumerate(mine)]
    ranked.sort(key=lambda item: item[:2])
    return [one for _, _, one in ranked[: settings.samples]]


def _questions(pack: Pack, limit: int) -> Iterator[Question]:
    for sample in samples(pack):
        targets = np.flatnonzero(sample.loss_mask)
        # A caption has no question: what begins with a target cannot be continued.
        if len(targets) and targets[0] > 0:
            begin = int(targets[0])
            end = begin + int(np.argmin(np.append(sample.loss_mask[begin:], False)))
            yield Question(prompt_of(sample, begin), tuple(sample.tokens[begin:end].tolist()[:limit]))


def ask(
    model: nn.Module,
    questions: list[Question],
    layout: BatchLayout,
    device: torch.device,
    special_ids: Mapping[str, int],
    limit: int,
) -> list[dict[str, Any]]:
    """What the model says to each, by greedy generation: ids, with the question and the right answer beside them."""
    stop = {special_ids[name] for name in ("im_end", "end_of_text") if name in special_ids}
    return [
        {**question.described, "said": generate(model, question.prompt, layout, device, stop, limit)}
        for question in questions
    ]
