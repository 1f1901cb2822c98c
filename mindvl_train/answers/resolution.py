"""The test-time resolution search: which bounds on the pixels answer a held-out set best.

MindVL (arXiv 2509.11662, section 3) searches the least and the most pixels of a picture after training. Here every
held-out picture is resized by every pair of bounds, its placeholders counted again, and its answers scored.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from mindvl_data import vision
from mindvl_data.errors import UserError
from mindvl_data.shards import Pack
from mindvl_train.answers.evaluation import Score, evaluate, total
from mindvl_train.answers.opened import Opened
from mindvl_train.data.held_out import at_resolution, samples
from mindvl_train.models.generation import generate, prompt_of
from mindvl_train.weights import processing


class ResolutionError(UserError):
    """A search that cannot be made; says why."""


@dataclass(frozen=True)
class Point:
    """What one pair of bounds gives.

    Attributes:
        min_pixels, max_pixels: the bounds.
        vision_tokens: placeholders a sample, on average.
        score: loss, and answers that are right token for token.
        similarity: 1 − edit distance / length of the longer, over tokens of generated answers; None: none were
            generated.
    """

    min_pixels: int
    max_pixels: int
    vision_tokens: float
    score: Score
    similarity: float | None

    def as_json(self) -> dict[str, float | None]:
        """For a program."""
        bounds = {"min_pixels": self.min_pixels, "max_pixels": self.max_pixels}
        return bounds | {"vision_tokens": self.vision_tokens, "similarity": self.similarity} | self.score.as_json()


def resolutions(opened: Opened, least: Sequence[int], most: Sequence[int]) -> list[vision.Resolution]:
    """Every pair of bounds that leaves room for a picture, in a stated order.

    Raises:
        ResolutionError: there is none.
    """
    token = (opened.layout.patch * opened.layout.merge) ** 2
    pairs = [(low, high) for low, high in product(sorted(set(least)), sorted(set(most))) if token <= low <= high]
    if not pairs:
        raise ResolutionError(
            f"no pair of bounds to try: each needs min_pixels of {token} (one token) or more, and at most max_pixels"
        )
    return [vision.Resolution(opened.layout.patch, opened.layout.merge, low, high) for low, high in pairs]


def search(
    opened: Opened,
    packs: Callable[[], Iterable[Pack]],
    pairs: Sequence[vision.Resolution],
    generated: int = 0,
    done: Callable[[Point], None] = lambda point: None,
) -> list[Point]:
    """A point for every pair of bounds, in their order.

    Args:
        opened: the model.
        packs: begins the held-out set again, with images' bytes.
        pairs: the bounds.
        generated: the most tokens of a generated answer; 0 generates none.
        done: is told of every point.
    """
    points = []
    for resolution in pairs:
        points.append(_point(opened, packs, resolution, generated))
        done(points[-1])
    return points


def best(points: Sequence[Point]) -> Point:
    """The most right (or most similar, if answers were generated); of equals the one with the fewest vision
    tokens, then the smallest bounds."""
    return max(points, key=lambda point: (_merit(point), -point.vision_tokens, -point.min_pixels, -point.max_pixels))


def write_bounds(folder: Path, point: Point) -> Path:
    """Writes the bounds into the processor of an exported folder, for its users' transformers to follow.

    Raises:
        ResolutionError: the folder has no image processor.
    """
    parts = [part for part in (folder, folder / "language", folder / "vision") if part.is_dir()]
    written = [path for part in parts if (path := processing.write_bounds(part, point.min_pixels, point.max_pixels))]
    if not written:
        raise ResolutionError(f"{folder}: has no image processor; export with --tokenizer, which writes one")
    return written[0]


def plot(points: Sequence[Point], path: Path) -> None:
    """Draws accuracy against vision tokens, a line for each lower bound.

    Raises:
        ResolutionError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ResolutionError("--plot needs matplotlib: pip install 'mindvl[plot]'") from error
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for low in sorted({point.min_pixels for point in points}):
        line = sorted((point.vision_tokens, _merit(point)) for point in points if point.min_pixels == low)
        axes.plot(*zip(*line, strict=True), marker="o", label=f"min_pixels {low:,}")
    chosen = best(points)
    axes.annotate("best", (chosen.vision_tokens, _merit(chosen)), textcoords="offset points", xytext=(6, 6))
    generated = chosen.similarity is not None
    axes.set(xlabel="vision tokens a sample", ylabel="similarity" if generated else "right answers", ylim=(0, 1.05))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path)


def edit_distance(one: Sequence[int], other: Sequence[int]) -> int:
    """Levenshtein's: the fewest insertions, deletions and replacements that make one of the other."""
    row = list(range(len(other) + 1))
    for index, mine in enumerate(one):
        above = row
        row = [index + 1]
        for column, theirs in enumerate(other):
            row.append(min(above[column + 1] + 1, row[-1] + 1, above[column] + (mine != theirs)))
    return row[-1]


def _merit(point: Point) -> float:
    return point.score.accuracy if point.similarity is None else point.similarity


def _point(opened: Opened, packs: Callable[[], Iterable[Pack]], resolution: vision.Resolution, generated: int) -> Point:
    seen, placeholders = 0, 0

    def resized() -> Iterator[Pack]:
        nonlocal seen, placeholders
        for pack in packs():
            yield (other := at_resolution(pack, resolution))
            seen += len(other.sources)
            placeholders += sum(vision.num_vision_tokens(*image.grid, resolution.merge) for image in other.images)

    score = total(evaluate(opened.model, resized(), opened.layout, opened.device))
    if not score.answers:
        raise ResolutionError("the held-out set has no answers to score")
    similarity = _similarity(opened, packs(), resolution, generated) if generated else None
    return Point(resolution.min_pixels, resolution.max_pixels, placeholders / seen, score, similarity)


def _similarity(opened: Opened, packs: Iterable[Pack], resolution: vision.Resolution, limit: int) -> float:
    """Of the first answer of every sample, on average."""
    end = opened.special_ids.get("im_end")
    stop = {token for token in (end, opened.special_ids.get("end_of_text")) if token is not None}
    similarities = []
    for sample in (sample for pack in packs for sample in samples(at_resolution(pack, resolution))):
        expected = _first_answer(sample)
        if not len(expected):
            continue
        answer = sample.tokens[expected].tolist()
        answer = answer[:-1] if answer[-1] in stop else answer
        prompt = prompt_of(sample, int(expected[0]))
        said = generate(opened.model, prompt, opened.layout, opened.device, stop, limit)
        longest = max(len(said), len(answer), 1)
        similarities.append(1 - edit_distance(said, answer) / longest)
    return float(np.mean(similarities))


def _first_answer(sample: Pack) -> Any:
    """The places of the first run of targets, int64."""
    targets = np.flatnonzero(sample.loss_mask)
    breaks = np.flatnonzero(np.diff(targets) != 1)
    return targets[: breaks[0] + 1] if len(breaks) else targets
