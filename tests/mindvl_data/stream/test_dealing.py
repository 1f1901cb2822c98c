"""A batch dealt to ranks: every pack once, equal counts, the same everywhere, and levelled."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindvl_data.stream import PackStream, deal, reading
from mindvl_data.stream.dealing import imbalance
from tests.mindvl_data.packs import make_manifest, make_pack


@given(world=st.integers(1, 16), each=st.integers(1, 8), seed=st.integers(0, 1000), spread=st.sampled_from([0, 1, 40]))
@settings(max_examples=200, deadline=None)
def test_every_pack_goes_to_one_rank_the_same_wherever_it_is_computed(
    world: int, each: int, seed: int, spread: int
) -> None:
    rng = np.random.default_rng(seed)
    costs = (rng.lognormal(0, 1, (world * each, 2)) * 1e6).astype(np.int64) + spread
    dealt = deal(costs, world)
    assert dealt.shape == (world, each)
    assert sorted(dealt.ravel()) == list(range(world * each))
    assert np.array_equal(dealt, deal(costs.copy(), world))


def test_log_normal_costs_come_out_level() -> None:
    """64 packs to 8 ranks: by turn the busiest has half as much again, dealt a few hundredths more."""
    turns, found = [], []
    for seed in range(50):
        rng = np.random.default_rng(seed)
        costs = (rng.lognormal(0, 0.7, (64, 2)) * 1e6).astype(np.int64)
        turns.append(imbalance(costs, np.arange(64).reshape(8, 8).T))
        found.append(imbalance(costs, deal(costs, 8)))
    assert (np.mean(turns, axis=0) > 1.35).all()
    assert (np.mean(found, axis=0) < 1.08).all()


def test_packs_without_images_and_a_lone_pack_can_be_dealt() -> None:
    costs = np.array([[4, 0], [1, 0], [2, 0], [3, 0]])
    assert sorted(costs[deal(costs, 2)].sum(axis=1)[:, 0]) == [5, 5]
    assert deal(costs[:1], 1).tolist() == [[0]]
    with pytest.raises(ValueError, match="4 packs cannot be dealt evenly to 3"):
        deal(costs, 3)


@pytest.mark.parametrize("last", ["pad", "wrap"])
def test_a_stream_dealt_by_cost_delivers_the_same_batches(tmp_path: Path, last: str) -> None:
    packs = [make_pack(i, lengths=[10 + i % 7, 30 - 3 * (i % 5)], images=i % 3 == 0) for i in range(11)]
    path = make_manifest(tmp_path / "set", packs)

    def batches(deal: str) -> list[list[tuple[int, bool]]]:
        ranks = [list(PackStream(path, rank, 2, 4, epochs=2, last=last, deal=deal)) for rank in range(2)]
        steps = [packs[first : first + 2] for packs in ranks for first in range(0, len(packs), 2)]
        half = len(steps) // 2
        return [
            sorted((pack.index, bool(pack.loss_mask.any())) for pack in steps[i] + steps[half + i]) for i in range(half)
        ]

    assert batches("cost") == batches("turn")


def test_costs_are_read_of_each_shard_once_however_often_its_packs_come_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_manifest(tmp_path / "set", [make_pack(i, images=False) for i in range(24)], per_shard=2)
    opened: list[str] = []
    open_shard = reading.open_shard
    monkeypatch.setattr(reading, "open_shard", lambda *asked: opened.append(asked[1].path) or open_shard(*asked))
    stream = PackStream(path, 0, 2, 6, epochs=5, deal="cost")
    n = 0
    while (step := stream.step_at(n)).slots:
        n = step.after
    assert n == 5 * 24
    assert sorted(opened) == [f"shard-{number:05d}.arrow" for number in range(12)]
