"""Which samples train most: capabilities choose in turns, each over its styles, as mmSSR does.

Lyu et al. 2025 (arXiv 2503.13383), `llava/select/mmssr.py` of their code. Theirs leaves ties to an unstable sort and
may pass its target where a style has nothing left; here ties go by a hash of the sample's id, and no round takes more
than is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mindvl_data.random_words import hashed


@dataclass(frozen=True)
class Styles:
    """The styles of n samples: those of sample i are codes[starts[i] : starts[i + 1]].

    starts: int64 [n + 1]. codes: int32 [pairs], in the order of the styles' names.
    """

    starts: NDArray[np.int64]
    codes: NDArray[np.int32]


def styles_of(said: pl.Series, origin: pl.Series | None) -> Styles:
    """Styles from text, several with commas between them (String [n], null where there is none).

    origin: String [n]; the same style of another origin is another style.
    """
    lines = pl.DataFrame({"style": said, "origin": said if origin is None else origin}).with_row_index("row")
    names = pl.col("style").str.split(",").list.eval(pl.element().str.strip_chars())
    pairs = lines.with_columns(names).explode("style", empty_as_null=False).filter(pl.col("style") != "")
    key = "style" if origin is None else pl.concat_str("style", "origin", separator="\0", ignore_nulls=True)
    pairs = pairs.select("row", code=key).unique().sort("row", "code")
    known = pairs["code"].unique().sort()
    codes = pairs["code"].replace_strict(known, pl.arange(0, len(known), eager=True), return_dtype=pl.Int32)
    counts = np.bincount(pairs["row"].to_numpy(), minlength=len(said))
    return Styles(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), codes.to_numpy())


def ties(ids: NDArray[np.uint8], seed: int) -> NDArray[np.int32]:
    """Who comes first where samples are alike, int32 [n]: a permutation by a hash of their ids (uint8 [n, 16])."""
    words = np.ascontiguousarray(ids).view("<u8").reshape(-1, 2)
    order = np.lexsort((words[:, 1], words[:, 0], hashed(words[:, 0], seed, "select")))
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    return rank


def ranking(values: NDArray[np.float64], above: float, rank: NDArray[np.int32]) -> NDArray[np.int32]:
    """The samples that score more than `above`, best first, int32; rank: see `ties`. NaN scores nothing."""
    rows = np.flatnonzero(values > above)
    return rows[np.lexsort((rank[rows], -values[rows]))].astype(np.int32)


def chosen(rankings: Sequence[NDArray[np.int32]], styles: Styles, target: int) -> NDArray[np.bool_]:
    """The samples that stay, bool [n], `target` of them, or fewer where no capability has any left.

    Round by round, every capability chooses the same number (what is left over all capabilities, at least one) among
    what no other has chosen; one that finds none chooses no more.

    Args:
        rankings: Of every capability, see `ranking`.
        styles: Of the n samples.
        target: How many are to stay.
    """
    taken = np.zeros(len(styles.starts) - 1, bool)
    alive, left = list(rankings), target
    while alive and left:
        budget = max(left // len(alive), 1)
        going_on = []
        for ranked in alive:
            if not left:
                break
            candidates = ranked[~taken[ranked]]
            found = _one_choice(candidates, styles, min(budget, left))
            if len(found):
                taken[found] = True
                left -= len(found)
                going_on.append(candidates)
        alive = going_on
    return taken


def _one_choice(candidates: NDArray[np.int32], styles: Styles, budget: int) -> NDArray[np.int32]:
    """At most `budget` of the candidates (best first), alike many of every style; the rarest style chooses first, and
    what it has not goes to the next."""
    ends = styles.starts[candidates + 1]
    counts = ends - styles.starts[candidates]
    owner = np.repeat(candidates, counts)
    within = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    codes = styles.codes[np.repeat(styles.starts[candidates], counts) + within]
    order = np.argsort(codes, kind="stable")
    present, sizes = np.unique(codes, return_counts=True)
    groups = np.split(owner[order], np.cumsum(sizes)[:-1]) if len(present) else []
    each, debt, left = max(budget // max(len(present), 1), 1), 0, budget
    mine = np.zeros(len(styles.starts) - 1, bool)
    for number in np.lexsort((present, sizes)):
        free = groups[number][~mine[groups[number]]]
        mine[free[: min(each + debt, left)]] = True
        left -= min(each + debt, left, len(free))
        debt = max(each + debt - len(free), 0)
        if not left:
            break
    return candidates[mine[candidates]]
