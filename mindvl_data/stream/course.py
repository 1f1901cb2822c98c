"""What a stream passes through: one manifest, several by weights, or one after another; all of it arithmetic.

A course maps position n to (manifest, epoch, place). A manifest goes on where it stood, whichever period it
comes up in, so that each of its packs comes exactly once in each of its epochs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mindvl_data.manifest import Manifest, ManifestError, read_manifest
from mindvl_data.stream.schedule import Knots, Scheduled, scheduled
from mindvl_data.stream.weights import Arrangement, arrange, whole_weights

AnyManifest = Manifest | str | Path


@dataclass(frozen=True)
class Mixture:
    """Several manifests at once: of Σ weights packs in a row, each has its weight (counted in packs).

    A weight may be a schedule: knots (packs of the mixture, weight) that begin at 0; shares are straight lines between
    the knots of all, and stay after the last.
    """

    weights: Sequence[tuple[AnyManifest, float | Knots]]


@dataclass(frozen=True)
class Period:
    """A part of a curriculum: what it takes from, for so many packs or passes (`Mixture`: until the first has
    had so many); with neither, endless."""

    of: AnyManifest | Mixture
    packs: int | None = None
    epochs: int | None = None


@dataclass(frozen=True)
class Curriculum:
    """Periods one after another; only the last may be endless."""

    periods: Sequence[Period]


@dataclass(frozen=True)
class Slot:
    """One place of a global batch: which pack of which manifest, and whether it only fills the batch."""

    epoch: int
    place: int
    fills: bool = False
    manifest: int = 0


@dataclass(frozen=True)
class Stretch:
    """A period laid out: `members` by `arrangement` from position `start` on, up to `stop` (None: endless).

    done: packs of each member that came in earlier stretches.
    """

    members: tuple[int, ...]
    arrangement: Arrangement | Scheduled
    start: int
    stop: int | None
    done: tuple[int, ...]


@dataclass(frozen=True)
class Course:
    """Position → slot. sizes: packs of every manifest. name: what a saved position belongs to."""

    name: str
    sizes: tuple[int, ...]
    stretches: tuple[Stretch, ...]

    @property
    def end(self) -> int | None:
        """Packs in all; None: endless."""
        return self.stretches[-1].stop

    def at(self, n: int) -> Slot:
        """The pack at position n. Beyond the end, which `wrap` may reach, the last stretch goes on."""
        stretch = self._stretch(n)
        source, count = stretch.arrangement.at(n - stretch.start)
        manifest = stretch.members[source]
        epoch, place = divmod(stretch.done[source] + count, self.sizes[manifest])
        return Slot(epoch, place, manifest=manifest)

    def left(self, n: int) -> int | None:
        """Packs from n to the next border, where `pad` and `drop` close a batch; None: there is none.

        Borders are the ends of stretches and, where a manifest stands alone, of its epochs.
        """
        stretch = self._stretch(n)
        borders = [] if stretch.stop is None else [stretch.stop - n]
        if len(stretch.members) == 1:
            size = self.sizes[stretch.members[0]]
            borders.append(size - (stretch.done[0] + n - stretch.start) % size)
        return min(borders, default=None)

    def longest(self) -> int | None:
        """The most packs between two borders (of an endless course: in its last stretch); None: no limit."""
        stretches = self.stretches[-1:] if self.end is None else self.stretches
        spans = [self._longest(stretch) for stretch in stretches]
        return None if None in spans else max(span for span in spans if span is not None)

    def _longest(self, stretch: Stretch) -> int | None:
        span = None if stretch.stop is None else stretch.stop - stretch.start
        if len(stretch.members) > 1:
            return span
        size = self.sizes[stretch.members[0]]
        if span is None or span >= 2 * size:
            return size
        first = min(span, size - stretch.done[0] % size)
        return max(first, min(size, span - first))

    def _stretch(self, n: int) -> Stretch:
        return next((each for each in self.stretches if each.stop is None or n < each.stop), self.stretches[-1])


def alone(name: str, packs: int) -> Course:
    """So many packs once, in their own order."""
    return Course(name, (packs,), (Stretch((0,), arrange([1]), 0, packs, (0,)),))


def lay_out(wanted: AnyManifest | Mixture | Curriculum, epochs: int | None) -> tuple[tuple[Manifest, ...], Course]:
    """The manifests of a course and the course itself.

    Args:
        wanted: What is to be read.
        epochs: Over a manifest, or over a mixture until the first of its sets has had so many; None: endless.

    Raises:
        ManifestError: The manifests do not fit together, or a period has no length.
    """
    if isinstance(wanted, Curriculum) and epochs != 1:
        raise ManifestError("a curriculum's periods say how long they are: give `epochs` or `packs` there")
    periods = wanted.periods if isinstance(wanted, Curriculum) else [Period(wanted, epochs=epochs)]
    if not periods:
        raise ManifestError("a curriculum needs at least one period")
    parts = [_members(period.of) for period in periods]
    manifests = tuple({manifest.id: manifest for part, _ in parts for manifest in part}.values())
    check_fit(manifests)
    numbers = {manifest.id: number for number, manifest in enumerate(manifests)}
    sizes = tuple(manifest.num_packs for manifest in manifests)
    done, start = [0] * len(manifests), 0
    stretches: list[Stretch] = []
    for number, (period, (part, arrangement)) in enumerate(zip(periods, parts, strict=True)):
        members = tuple(numbers[manifest.id] for manifest in part)
        length = _length(period, arrangement, [sizes[member] for member in members])
        if length is None and number < len(periods) - 1:
            raise ManifestError(f"period {number} of the curriculum is endless, but more follow: give it `packs`")
        stop = None if length is None else start + length
        stretches.append(Stretch(members, arrangement, start, stop, tuple(done[member] for member in members)))
        for member, count in zip(members, arrangement.counts(length or 0), strict=True):
            done[member] += count
        start += length or 0
    return manifests, Course(_name(manifests, stretches), sizes, tuple(stretches))


def _members(of: AnyManifest | Mixture) -> tuple[list[Manifest], Arrangement | Scheduled]:
    """Manifests and how they stand, by id: the order in which they are named changes nothing."""
    if not isinstance(of, Mixture):
        return [_opened(of)], arrange([1])
    given = [(_opened(manifest), weight) for manifest, weight in of.weights]
    manifests = [manifest for manifest, _ in given]
    if len({manifest.seq_len for manifest in manifests}) > 1:
        lengths = ", ".join(f"{manifest.where} ({manifest.seq_len})" for manifest in manifests)
        raise ManifestError(f"a mixture needs one seq_len: {lengths}; put them in periods of a curriculum")
    if not manifests or len({manifest.id for manifest in manifests}) < len(manifests):
        raise ManifestError("a mixture names each manifest once: add up the weights of one that comes twice")
    ordered = sorted(given, key=lambda member: member[0].id)
    try:
        arrangement = _arranged([weight for _, weight in ordered])
    except ValueError as error:
        raise ManifestError(f"a mixture of {', '.join(manifest.where for manifest in manifests)}: {error}") from error
    return [manifest for manifest, _ in ordered], arrangement


def _arranged(weights: Sequence[float | Knots]) -> Arrangement | Scheduled:
    numbers = [weight for weight in weights if isinstance(weight, (int, float))]
    return arrange(whole_weights(numbers)) if len(numbers) == len(weights) else scheduled(weights)


def _opened(manifest: AnyManifest) -> Manifest:
    return manifest if isinstance(manifest, Manifest) else read_manifest(manifest)


def check_fit(manifests: Sequence[Manifest]) -> None:
    """Raises ManifestError where manifests cannot be streamed together."""
    first = manifests[0]
    for other in manifests:
        if not other.num_packs:
            raise ManifestError(f"{other.where}: has no packs; build it with a larger budget")
        for what in ("tokenizer", "resolution"):
            if _decisive(other, what) != _decisive(first, what):
                raise ManifestError(f"{other.where} and {first.where} have different {what}s; build them with one")


def _decisive(manifest: Manifest, what: str) -> object:
    if what == "tokenizer":
        return manifest.tokenizer["sha256"]
    rule = manifest.resolution
    return rule.patch, rule.merge, rule.normalisation


def _length(period: Period, arrangement: Arrangement | Scheduled, sizes: Sequence[int]) -> int | None:
    if period.packs is not None and period.epochs is not None:
        raise ManifestError("a period has `packs` or `epochs`, not both")
    length = period.packs
    if period.epochs is not None:
        ends = [arrangement.position(source, period.epochs * size) for source, size in enumerate(sizes)]
        length = min((end for end in ends if end is not None), default=None)
    if length is not None and length < 1:
        raise ManifestError(f"a period of {length} packs: give it at least one")
    return length


def _name(manifests: Sequence[Manifest], stretches: Sequence[Stretch]) -> str:
    """A manifest's own id where it is alone; else a hash of all that decides what stands at position n."""
    if len(manifests) == 1:
        return manifests[0].id
    # Where the last stretch ends decides nothing: a run may be made longer.
    laid = [*stretches[:-1], replace(stretches[-1], stop=None)]
    said = [[[manifests[member].id for member in each.members], each.arrangement.weights, each.stop] for each in laid]
    return hashlib.sha256(json.dumps(["course 1", said]).encode()).hexdigest()
