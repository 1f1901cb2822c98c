"""Weights that change with the position."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindvl_data.manifest import ManifestError
from mindvl_data.stream import ChosenBatches, Mixture, PackStream
from mindvl_data.stream.course import lay_out
from mindvl_data.stream.schedule import BLOCK, Scheduled, scheduled
from mindvl_data.stream.weights import arrange
from tests.mindvl_data.packs import make_manifest, make_pack

WEIGHT = st.floats(0, 5) | st.just(0.0)
KNOTS = st.lists(st.tuples(st.integers(1, 3 * BLOCK), WEIGHT), max_size=4).flatmap(
    lambda rest: WEIGHT.map(lambda first: [(0, first), *sorted({n: w for n, w in rest}.items())])
)


def test_a_line_by_hand() -> None:
    # From all a to all b over 8 packs: b's integral is n²/16, so its packs, at 1/2, 3/2, …, stand at 2.83, 4.90, 6.32.
    found = scheduled([[(0, 1), (8, 0)], [(0, 0), (8, 1)]])
    sources = [found.at(n)[0] for n in range(12)]
    # a: 8n - n²/2 over 8 reaches 1/2, 3/2, 5/2, 7/2 at 0.52, 1.68, 3.10, 5.17.
    assert sources == [0, 0, 1, 0, 1, 0, 1, 1, 1, 1, 1, 1]
    assert [found.at(n)[1] for n in range(12)] == [0, 1, 0, 2, 1, 3, 2, 3, 4, 5, 6, 7]
    assert found.position(0, 4) is None


def test_weights_that_do_not_change_are_the_arrangement_of_weights() -> None:
    one, other = scheduled([2.0, 1.0, 4.0]), arrange([2, 1, 4])
    assert [one.at(n) for n in range(70)] == [other.at(n) for n in range(70)]


@settings(deadline=None, max_examples=40)
@given(st.lists(KNOTS, min_size=1, max_size=4), st.integers(0, 5 * BLOCK), st.integers(1, 200))
def test_every_place_is_one_packs_and_shares_are_kept(
    weights: list[list[tuple[int, float]]], first: int, length: int
) -> None:
    # One that has a weight everywhere.
    found = scheduled([*weights[:-1], [(place, weight + 0.01) for place, weight in weights[-1]]])
    before, after = found.counts(first), found.counts(first + length)
    assert sum(before) == first
    places = [found.at(n) for n in range(first, first + length)]
    for source in range(len(weights)):
        mine = [count for owner, count in places if owner == source]
        assert mine == list(range(before[source], after[source]))
    for n in (first, first + length - 1):
        assert found.position(*found.at(n)) == n
    # Of each source as many as the integral of its share says, but for a pack times half the number of sources.
    assert np.allclose(before, integrals(found, first), atol=len(weights) / 2 + 0.51)


def integrals(of: Scheduled, n: int) -> list[float]:
    positions = sorted({0.0, float(n), *(knot for knot in of.knots if knot < n)})
    return [float(np.trapezoid(np.interp(positions, of.knots, share), positions)) for share in of.shares]


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("sets")
    sets = [[make_pack(100 * s + i, images=False) for i in range(4 + s)] for s in range(2)]
    return [make_manifest(folder / str(s), packs) for s, packs in enumerate(sets)]


def taken(stream: PackStream, count: int) -> list[bytes]:
    packs = iter(stream)
    return [next(packs).sample_ids[0] for _ in range(count)]


def test_a_stream_of_a_schedule_goes_on_under_any_ranks(manifests: list[Path]) -> None:
    def stream(rank: int = 0, world: int = 1) -> PackStream:
        weights = Mixture([(manifests[0], [(0, 1), (30, 0)]), (manifests[1], [(0, 0), (30, 1)])])
        return PackStream(weights, rank, world, epochs=None)

    whole = taken(stream(), 40)
    two = [stream(rank, 2) for rank in range(2)]
    first = [taken(each, 7) for each in two]
    assert [sample for pair in zip(*first, strict=True) for sample in pair] == whole[:14]
    alone = stream()
    alone.load_state_dict(two[0].state_dict())
    assert taken(alone, 26) == whole[14:]


def test_epochs_of_a_schedule_end_with_the_first_that_has_had_them(manifests: list[Path]) -> None:
    fading = Mixture([(manifests[0], [(0, 1), (6, 0)]), (manifests[1], 1.0)])
    _, course = lay_out(fading, 1)
    # The first set never comes to its fifth pack: the other's five end it.
    slots = [course.at(n) for n in range(course.end or 0)]
    assert max(slot.epoch for slot in slots) == 0
    assert course.at(course.end or 0).epoch == 1


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([[(1, 1.0)], 1.0], "begins at pack 0"),
        ([[(0, 1.0), (0, 2.0)], 1.0], "begins at pack 0 and rises"),
        ([[(0, -1.0)], 1.0], "every weight is 0 or more"),
        ([[(0, 1.0), (5, 0.0)], [(0, 1.0), (5, 0.0)]], "at pack 5 no source has a weight"),
    ],
)
def test_a_schedule_that_is_none_is_refused(
    manifests: list[Path], weights: list[float | list[tuple[float, float]]], message: str
) -> None:
    with pytest.raises(ManifestError, match=message):
        PackStream(Mixture(list(zip(manifests, weights, strict=True))))


def test_chosen_batches_are_of_one_set_each_and_go_on_through_its_epochs(manifests: list[Path]) -> None:
    opened = tuple(PackStream(each).manifest for each in manifests)
    chosen = ChosenBatches(opened, (3, 0), (0, 1, 0, 1), 2)
    slots = [chosen.at(n) for n in range(chosen.end)]
    assert [(slot.manifest, slot.epoch, slot.place) for slot in slots] == [
        *((0, 0, 3), (0, 1, 0), (1, 0, 0), (1, 0, 1)),
        *((0, 1, 1), (0, 1, 2), (1, 0, 2), (1, 0, 3)),
    ]
    assert chosen.after == (7, 4)
    ranks = [list(PackStream(chosen, rank, 2, 2)) for rank in range(2)]
    assert [len(packs) for packs in ranks] == [4, 4]
    assert chosen.name != ChosenBatches(opened, (3, 0), (0, 1, 1, 0), 2).name
