"""What a manifest says of its stage in numbers: the funnel, the mixture, the packing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mindvl_data.packing import Packs, duplicates_in_pack, step_balance
from mindvl_data.recipe import Group
from mindvl_data.steps.fit import Fitted, Weights
from mindvl_data.steps.mix import Draw
from mindvl_data.tables.columns import chunks, let_go

if TYPE_CHECKING:
    from mindvl_data.pipeline.drawing import Drawn
    from mindvl_data.pipeline.spec import Spec
    from mindvl_data.steps.fit import Fitted, Weights
    from mindvl_data.steps.mix import Draw
    from mindvl_data.tables.corpus import Corpus

COUNTED = ("samples", "tokens", "loss_tokens", "vision_tokens")


def mixture(made: Drawn, fitted: Fitted, corpus: Corpus, spec: Spec) -> dict[str, Any]:
    """The target and the actual amount of each source, and of each group, in every count there is.

    `epochs` are over what could be drawn.
    """
    samples = made.draw.samples
    given = _by_source(fitted.weights, corpus, (samples[start:end] for start, end in chunks(len(samples))))
    pools = _by_source(
        fitted.weights,
        corpus,
        (start + np.flatnonzero(fitted.fits[start:end]) for start, end in chunks(len(fitted.fits))),
    )
    totals = {column: sum(given[name][column] for name in made.asked.shares) for column in COUNTED}
    lines = {}
    for name, share in made.asked.shares.items():
        holds, got = pools[name], given[name]
        passes = made.asked.passes(name, holds[spec.by])
        lines[name] = {
            "pool": holds,
            "target": {
                "share": round(share, 6),
                **{column: round(passes * value) for column, value in holds.items()},
                "epochs": round(passes, 4),
            },
            "actual": {
                "share": round(got[spec.by] / totals[spec.by], 6),
                **got,
                "epochs": round(got[spec.by] / holds[spec.by], 4),
            },
        }
    budget = spec.budget.model_dump(exclude_none=True) if spec.budget else None
    groups = dict(_groups(spec.mixture, lines)) if spec.mixture else {}
    scores = dict(_scores(spec.mixture, spec.stage)) if spec.mixture else {}
    said = {"allocated_by": scores} if scores else {}
    return {"by": spec.by, "budget": budget, "total": totals, "sources": lines, "groups": groups, **said}


def _scores(group: Group, stage: str) -> Iterator[tuple[str, dict[str, float]]]:
    """What every share by score was allocated by: the members' scores, by the YAML path of the group's `score`."""
    for path, one in group.allocating(f"stages.{stage}.mixture"):
        assert one.allocate is not None
        assert isinstance(one.allocate.score, dict)
        yield path, dict(one.allocate.score)


def _by_source(weights: Weights, corpus: Corpus, samples: Iterable[NDArray[np.integer]]) -> dict[str, dict[str, int]]:
    """Σ over these chunks of samples, some of them perhaps several times, of every count, by source."""
    sums = np.zeros((len(COUNTED), len(corpus.sources)), np.int64)
    for some in samples:
        of = corpus.source[some]
        sums[0] += np.bincount(of, minlength=len(corpus.sources))
        for line, column in enumerate(COUNTED[1:], 1):
            # As floats: exact, a chunk's sum is far below 2^53.
            sums[line] += np.bincount(of, weights.of(some, column), len(corpus.sources)).astype(np.int64)
    let_go(weights.loss_tokens)
    return {name: dict(zip(COUNTED, sums[:, i].tolist(), strict=True)) for i, name in enumerate(corpus.sources)}


def _groups(group: Group, lines: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, float]]]:
    """Every group by its path, with its target and actual share of the whole."""
    for name, member in group.members.items():
        if isinstance(member, Group):
            of = [lines[source] for source in member.sources()]
            yield (
                f"{path}{name}",
                {side: round(sum(line[side]["share"] for line in of), 6) for side in ("target", "actual")},
            )
            yield from _groups(member, lines, f"{path}{name}.")


def packing(
    packs: Packs,
    draw: Draw,
    tokens: int,
    costs: Mapping[str, Mapping[str, NDArray[np.int64]]],
    seq_len: int,
    step: int,
) -> dict[str, Any]:
    """Packs, the fewest there can be, fill, and how level the steps of either order are: at 1 no rank waits.

    costs: by order, then by name, of each pack in that order.
    """
    slots = len(packs) * seq_len
    return {
        "packs": len(packs),
        "minimum_packs": packs.minimum_packs,
        "tokens": tokens,
        "padding": slots - tokens,
        "fill": round(tokens / slots, 6),
        "duplicates_in_pack": len(duplicates_in_pack(packs, draw.samples)) if draw.repeats.any() else 0,
        "segments_per_pack": round(len(packs.index) / len(packs), 3),
        "cost_balance": {
            rule: {name: round(step_balance(values, step), 4) for name, values in ordered.items()}
            for rule, ordered in costs.items()
        },
    }
