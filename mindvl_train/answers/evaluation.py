"""What a model makes of a held-out set: loss and right answers, for every source and kind.

An answer is a run of targets: what an assistant says in one turn, with its end. It is right if every one of its
tokens is the likeliest after those before it, which is to say: if greedy generation would give it, token for
token.
"""

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mindvl_data.shards import Pack
from mindvl_train.data.batch import Batch, BatchLayout, collate

# Packs decoded ahead of the model.
AHEAD = 8


@dataclass(frozen=True)
class Score:
    """Of a group of samples.

    Attributes:
        samples: with at least one target.
        targets: tokens with a loss.
        nats: the sum of their losses.
        answers: runs of targets.
        right: of them, those of which every token is the likeliest.
    """

    samples: int = 0
    targets: int = 0
    nats: float = 0.0
    answers: int = 0
    right: int = 0

    @property
    def loss(self) -> float:
        """Nats a target."""
        return self.nats / self.targets if self.targets else float("nan")

    @property
    def accuracy(self) -> float:
        """Right answers among all."""
        return self.right / self.answers if self.answers else float("nan")

    def __add__(self, other: "Score") -> "Score":
        return Score(
            self.samples + other.samples,
            self.targets + other.targets,
            self.nats + other.nats,
            self.answers + other.answers,
            self.right + other.right,
        )

    def as_json(self) -> dict[str, float]:
        """Its counts and what follows from them, for a program."""
        return {
            "samples": self.samples,
            "targets": self.targets,
            "loss": self.loss,
            "answers": self.answers,
            "right": self.right,
            "accuracy": self.accuracy,
        }


def evaluate(model: Any, packs: Iterable[Pack], layout: BatchLayout, device: torch.device) -> dict[str, Score]:
    """The score of every source, in the order of their names.

    Args:
        model: has `predictions`, as `VLM` does, and its weights.
        packs: with their images' bytes.
        layout: how packs become batches.
        device: where the model is.
    """
    scores: dict[str, Score] = {}
    for pack, batch in _collated(packs, layout):
        with torch.no_grad():
            losses, likeliest = model.predictions(batch.to(device))
        hits = (likeliest.cpu() == batch.targets).numpy()
        for source, score in _by_source(pack, batch, losses.double().cpu().numpy(), hits):
            scores[source] = scores.get(source, Score()) + score
    return dict(sorted(scores.items()))


def by_kind(scores: Mapping[str, Score], sources: Mapping[str, Any]) -> dict[str, Score]:
    """The scores of sources added up by the kind that a manifest's `sources` gives them."""
    kinds: dict[str, Score] = {}
    for source, score in scores.items():
        kind = sources.get(source, {}).get("kind") or source
        kinds[kind] = kinds.get(kind, Score()) + score
    return dict(sorted(kinds.items()))


def total(scores: Mapping[str, Score]) -> Score:
    """Of everything."""
    return sum(scores.values(), Score())


def _collated(packs: Iterable[Pack], layout: BatchLayout) -> Iterator[tuple[Pack, Batch]]:
    remaining = iter(packs)
    with ThreadPoolExecutor(thread_name_prefix="decode") as pool:
        while group := list(islice(remaining, AHEAD)):
            yield from zip(group, pool.map(partial(_collate_one, layout=layout), group), strict=True)


def _collate_one(pack: Pack, layout: BatchLayout) -> Batch:
    return collate([pack], layout)


def _by_source(
    pack: Pack, batch: Batch, losses: NDArray[np.float64], hits: NDArray[np.bool_]
) -> Iterator[tuple[str, Score]]:
    """One score a segment with targets; losses and hits are [L], in the order of the batch's targets."""
    places = batch.predictors.numpy() + 1
    segments = np.searchsorted(pack.cu_seqlens, places, side="right") - 1
    # A segment's first token is never a target, so that targets of two segments are never neighbours.
    begins = np.flatnonzero(np.diff(places, prepend=-1) != 1)
    right = np.logical_and.reduceat(hits, begins) if len(begins) else np.empty(0, np.bool_)
    for segment in np.unique(segments).tolist():
        mine, answers = segments == segment, segments[begins] == segment
        score = Score(1, int(mine.sum()), float(losses[mine].sum()), int(answers.sum()), int(right[answers].sum()))
        yield pack.sources[segment], score
