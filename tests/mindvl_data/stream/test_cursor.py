"""The cursor as arithmetic: every pack exactly once an epoch under any history, whatever is streamed."""

import random
from collections import Counter
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindvl_data.manifest import Manifest, ManifestError
from mindvl_data.stream import Curriculum, Last, Mixture, Period, epoch_order, next_step
from mindvl_data.stream.course import Course, lay_out
from mindvl_data.stream.epochs import order_of_epoch
from mindvl_data.stream.weights import arrange, whole_weights


def manifest(name: str, packs: int, seq_len: int = 64, tokenizer: str = "t", patch: int = 14) -> Manifest:
    data = {
        "id": name,
        "seq_len": seq_len,
        "packing": {"packs": packs},
        "tokenizer": {"sha256": tokenizer},
        "resolution": {"patch": patch, "merge": 2},
    }
    return Manifest(Path(name), data)


@st.composite
def courses(draw: st.DrawFn) -> Course:
    """One manifest, a mixture or a curriculum of both; bounded or endless."""
    sets = [manifest(f"m{i}", draw(st.integers(1, 30))) for i in range(draw(st.integers(1, 4)))]

    def member() -> Any:
        chosen = draw(st.lists(st.sampled_from(sets), min_size=1, max_size=3, unique_by=lambda each: each.id))
        if len(chosen) == 1:
            return chosen[0]
        return Mixture([(each, draw(st.sampled_from([0.1, 0.5, 1, 2, 3]))) for each in chosen])

    epochs = draw(st.sampled_from([1, 2, None]))
    if draw(st.booleans()):
        return lay_out(member(), epochs)[1]
    periods = [Period(member(), packs=draw(st.integers(1, 40))) for _ in range(draw(st.integers(0, 3)))]
    last = Period(member(), epochs=epochs)
    return lay_out(Curriculum([*periods, last]), 1)[1]


HISTORIES = 10


@given(course=courses(), last=st.sampled_from(["pad", "wrap"]), seed=st.integers(0, 1 << 30))
@settings(max_examples=200, deadline=None)
def test_any_history_of_batch_sizes_delivers_each_pack_once_an_epoch_of_its_manifest(
    course: Course, last: Last, seed: int
) -> None:
    """Ten histories of up to forty batches an example: two thousand."""
    chance = random.Random(seed)
    for _ in range(HISTORIES):
        n, seen = 0, list[tuple[int, int, int]]()
        for global_batch in chance.choices(range(1, 24), k=chance.randrange(40)):
            step = next_step(course, n, global_batch, last)
            assert len(step.slots) in (0, global_batch)
            seen += [(slot.manifest, slot.epoch, slot.place) for slot in step.slots if not slot.fills]
            n = step.after
        assert len(seen) == n
        # Of every manifest: the first so many packs of its endless course of epochs, in their order, none twice.
        for number, size in enumerate(course.sizes):
            positions = [epoch * size + place for which, epoch, place in seen if which == number]
            assert positions == list(range(len(positions)))


@given(course=courses(), seed=st.integers(0, 1 << 30))
@settings(max_examples=150, deadline=None)
def test_drop_delivers_none_twice_and_counts_what_it_skips(course: Course, seed: int) -> None:
    chance, longest = random.Random(seed), course.longest() or 50
    n, seen, skipped = 0, Counter[tuple[int, int, int]](), 0
    for _ in range(30):
        step = next_step(course, n, chance.randint(1, longest), "drop")
        seen.update((slot.manifest, slot.epoch, slot.place) for slot in step.slots)
        n, skipped = step.after, skipped + step.skipped
        assert not any(slot.fills for slot in step.slots)
    assert max(seen.values(), default=1) == 1
    assert seen.total() + skipped == n


@given(course=courses(), n=st.integers(0, 200), global_batch=st.integers(1, 20))
@settings(max_examples=100, deadline=None)
def test_a_padded_or_dropped_batch_never_crosses_a_border(course: Course, n: int, global_batch: int) -> None:
    for last in ("pad", "drop"):
        if last == "drop" and global_batch > (course.longest() or global_batch):
            continue
        slots = next_step(course, n, global_batch, cast(Last, last)).slots
        if slots and len(course.stretches) == 1 and len(course.sizes) == 1:
            assert len({slot.epoch for slot in slots}) == 1


@given(weights=st.lists(st.integers(1, 40), min_size=1, max_size=6), number=st.integers(0, 500))
def test_weights_hold_in_every_window_and_all_along(weights: list[int], number: int) -> None:
    arrangement, period = arrange(weights), sum(weights)
    drawn = [arrangement.at(position) for position in range(3 * period)]
    for start in range(0, 2 * period, 7):
        window = Counter(source for source, _ in drawn[start : start + period])
        assert [window[source] for source in range(len(weights))] == weights
    for stop in range(len(drawn)):
        counts = arrangement.counts(stop)
        assert sum(counts) == stop
        shares = [weight * stop / period for weight in weights]
        assert max(abs(count - share) for count, share in zip(counts, shares, strict=True)) <= len(weights) / 2 + 0.5
    source = number % len(weights)
    assert arrangement.at(arrangement.position(source, number)) == (source, number)


def test_weights_as_written_become_whole_numbers() -> None:
    assert whole_weights([0.7, 0.3]) == (7, 3)
    assert whole_weights([2, 4]) == (1, 2)
    assert whole_weights([1 / 3, 2 / 3]) == (1, 2)
    assert whole_weights([0.123456789, 0.876543211]) == (8091, 57445)
    for weights in ([1, 0], [1, -1], [1, float("nan")], [1, 1e-9]):
        with pytest.raises(ValueError, match="weights are"):
            whole_weights(weights)


def test_a_frozen_interleaving_stays_frozen() -> None:
    """A mixture and a curriculum, as the cursor of format version 1 lays them out, whatever order they are named in."""
    a, b = manifest("a", 4), manifest("b", 9)
    mixed = lay_out(Mixture([(b, 0.6), (a, 0.4)]), None)[1]
    assert [(mixed.at(n).manifest, mixed.at(n).epoch, mixed.at(n).place) for n in range(12)] == GOLDEN_MIXTURE
    assert mixed.name == lay_out(Mixture([(a, 2), (b, 3)]), 1)[1].name == GOLDEN_NAME
    curriculum = lay_out(Curriculum([Period(b, packs=5), Period(Mixture([(a, 1), (b, 1)]))]), 1)[1]
    assert [(curriculum.at(n).manifest, curriculum.at(n).place) for n in range(9)] == GOLDEN_CURRICULUM


GOLDEN_MIXTURE = [
    *[(1, 0, 0), (0, 0, 0), (1, 0, 1), (0, 0, 1), (1, 0, 2), (1, 0, 3), (0, 0, 2), (1, 0, 4), (0, 0, 3), (1, 0, 5)],
    *[(1, 0, 6), (0, 1, 0)],
]
GOLDEN_NAME = "9ef88188a3f26f3a0f429adebd967995c290fe07c22a449249131ee05f784ef0"
GOLDEN_CURRICULUM = [(0, 0), (0, 1), (0, 2), (0, 3), (0, 4), (1, 0), (0, 5), (1, 1), (0, 6)]


def test_a_mixture_ends_before_a_manifest_would_begin_one_pass_too_many() -> None:
    course = lay_out(Mixture([(manifest("a", 4), 1), (manifest("b", 100), 3)]), 2)[1]
    end = course.end
    assert end is not None
    assert Counter(course.at(n).manifest for n in range(end))[0] == 8
    assert (course.at(end).manifest, course.at(end).epoch) == (0, 2)


@pytest.mark.parametrize(
    ("wanted", "epochs", "words"),
    [
        (Mixture([(manifest("a", 1), 1), (manifest("a", 1), 2)]), 1, "each manifest once"),
        (Mixture([]), 1, "each manifest once"),
        (Mixture([(manifest("a", 1), 1), (manifest("b", 1, seq_len=8), 2)]), 1, "needs one seq_len"),
        (Mixture([(manifest("a", 1), 1), (manifest("b", 1, tokenizer="u"), 2)]), 1, "different tokenizers"),
        (Mixture([(manifest("a", 1), 1), (manifest("b", 1, patch=16), 2)]), 1, "different resolutions"),
        (Mixture([(manifest("a", 1), 1), (manifest("b", 1), 0)]), 1, "a number above 0"),
        (manifest("a", 0), 1, "has no packs"),
        (Curriculum([]), 1, "at least one period"),
        (Curriculum([Period(manifest("a", 1), packs=1)]), 2, "periods say how long"),
        (Curriculum([Period(manifest("a", 1)), Period(manifest("a", 1))]), 1, "period 0 of the curriculum is endless"),
        (Curriculum([Period(manifest("a", 1), packs=1, epochs=1)]), 1, "not both"),
        (Curriculum([Period(manifest("a", 1), packs=0)]), 1, "at least one"),
    ],
)
def test_what_cannot_be_laid_out_says_why(wanted: Any, epochs: int, words: str) -> None:
    with pytest.raises(ManifestError, match=words):
        lay_out(wanted, epochs)


@given(packs=st.integers(1, 200), step=st.integers(1, 40), epoch=st.integers(0, 3))
def test_an_epoch_permutes_whole_steps(packs: int, step: int, epoch: int) -> None:
    order = epoch_order("an id", epoch, packs, step)
    assert sorted(order) == list(range(packs))
    if epoch == 0:
        assert list(order) == list(range(packs))
    blocks = {tuple(range(i, min(i + step, packs))) for i in range(0, packs, step)}
    assert {tuple(order[i : i + step].tolist()) for i in range(0, packs, step)} == blocks
    held = order_of_epoch("an id", epoch, packs, step)
    assert np.array_equal(order, [held.pack(place) for place in range(packs)])


@given(steps=st.integers(1, 20), tail=st.integers(0, 7), n=st.integers(0, 60))
def test_batches_of_a_step_are_the_builds_steps_in_every_epoch(steps: int, tail: int, n: int) -> None:
    """Balanced steps stay balanced: with `pad` or `drop`, batches of `order.step` packs never join two of them."""
    packs = 8 * steps + tail % 8
    laid = lay_out(manifest("m", packs), None)[1]
    cursor = 0
    for _ in range(n % 40):
        cursor = next_step(laid, cursor, 8, "pad").after
    slots = next_step(laid, cursor, 8, "pad").slots
    order = epoch_order("m", slots[0].epoch, packs, 8)
    assert len({order[slot.place] // 8 for slot in slots}) == 1


def test_a_frozen_order_stays_frozen() -> None:
    assert epoch_order("golden", 1, 11, 2).tolist() == GOLDEN_ORDER


GOLDEN_ORDER = [8, 9, 6, 7, 0, 1, 4, 5, 2, 3, 10]
