"""The cursor: every pack exactly once an epoch, whatever the topology and however often it changes."""

from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindvl_data.manifest import ManifestError, read_manifest
from mindvl_data.shards import pack_digest
from mindvl_data.stream import Curriculum, Last, Mixture, PackStream, Period, epoch_order
from tests.mindvl_data.packs import make_manifest, make_pack


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    packs = [make_pack(i, images=i % 2 == 0) for i in range(11)]
    return make_manifest(tmp_path_factory.mktemp("stream") / "set", packs)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_ranks_of_any_world_share_the_packs_and_a_new_world_goes_on_exactly(
    manifest: Path, data: st.DataObject
) -> None:
    last: Last = data.draw(st.sampled_from(["pad", "wrap"]))
    state = PackStream(manifest).state_dict()
    seen = Counter[int]()
    for _ in range(data.draw(st.integers(1, 4))):
        world = data.draw(st.integers(1, 4))
        global_batch = world * data.draw(st.integers(1, 3))
        steps = data.draw(st.integers(0, 3))
        states = []
        for rank in range(world):
            stream = PackStream(manifest, rank, world, global_batch, epochs=None, last=last)
            stream.load_state_dict(state)
            packs = list(islice(stream, steps * global_batch // world))
            seen.update(pack.index for pack in packs if pack.loss_mask.any())
            states.append(stream.state_dict())
        assert all(other == states[0] for other in states)
        state = states[0] if steps else state
    n = state["packs"]
    assert seen.total() == n
    assert max(seen.values(), default=0) - min((seen[i] for i in range(11)), default=0) <= 1


def test_a_batch_half_delivered_is_delivered_again_as_a_whole(manifest: Path) -> None:
    stream = PackStream(manifest, global_batch=4)
    packs = iter(stream)
    for _ in range(6):
        next(packs)
    assert stream.state_dict()["packs"] == 4


@pytest.mark.parametrize(
    ("last", "delivered", "skipped"), [("pad", [4, 4, 3], 0), ("wrap", [4, 4, 4], 0), ("drop", [4, 4], 3)]
)
def test_the_last_batch_follows_its_rule_on_every_rank(
    manifest: Path, last: Last, delivered: list[int], skipped: int
) -> None:
    streams = [PackStream(manifest, rank, 2, 4, epochs=1, last=last) for rank in range(2)]
    packs = [list(stream) for stream in streams]
    assert len(packs[0]) == len(packs[1]) == 2 * len(delivered)
    assert sum(pack.loss_mask.any() for rank in packs for pack in rank) == sum(delivered)
    fillers = [pack for rank in packs for pack in rank if not pack.loss_mask.any()]
    counted = [(p.num_tokens, p.sample_ids, p.images, p.num_patches, p.attention_cost) for p in fillers]
    assert counted == [(0, (), (), 0, 0)] * len(fillers), "a pack that fills a batch counts nowhere"
    assert [stream.skipped for stream in streams] == [skipped, skipped]
    assert list(streams[0]) == []


def test_a_state_of_another_manifest_is_refused(manifest: Path, tmp_path: Path) -> None:
    other = make_manifest(tmp_path / "other", [make_pack(100)])
    with pytest.raises(ManifestError, match="belongs to"):
        PackStream(other).load_state_dict(PackStream(manifest).state_dict())


def test_a_damaged_shard_is_never_read(tmp_path: Path) -> None:
    path = make_manifest(tmp_path / "set", [make_pack(i) for i in range(8)])
    shard = path.parent / "shard-00001.arrow"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    packs = iter(PackStream(path))
    assert [next(packs).index for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(ManifestError, match=r"shard-00001\.arrow: altered"):
        next(packs)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"rank": 2, "world": 2}, "not within a world"),
        ({"world": 2, "global_batch": 3}, "no multiple"),
        ({"last": "skip"}, "pad, wrap or drop"),
        ({"last": "drop", "global_batch": 12}, "would drop everything"),
    ],
)
def test_what_cannot_work_is_refused_at_once(manifest: Path, arguments: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PackStream(manifest, **arguments)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_manifest(tmp_path_factory.mktemp("other") / "set", [make_pack(100 + i, images=False) for i in range(5)])


def test_a_mixture_goes_on_exactly_under_another_world_and_any_naming_order(manifest: Path, other: Path) -> None:
    whole = PackStream(Mixture([(manifest, 0.75), (other, 0.25)]), epochs=None)
    expected = [pack_digest(pack) for pack in islice(whole, 24)]
    found, state = [], PackStream(Mixture([(other, 1), (manifest, 3)]), epochs=None).state_dict()
    for world, steps in [(1, 4), (2, 4), (4, 3)]:
        streams = [PackStream(Mixture([(other, 1), (manifest, 3)]), rank, world, epochs=None) for rank in range(world)]
        for stream in streams:
            stream.load_state_dict(state)
        ranks = [[pack_digest(pack) for pack in islice(stream, steps)] for stream in streams]
        found += [ranks[rank][step] for step in range(steps) for rank in range(world)]
        state = streams[0].state_dict()
    assert found == expected
    assert state == {"manifest": whole.course.name, "packs": 24}


def test_a_position_in_a_mixture_means_nothing_under_other_weights(manifest: Path, other: Path) -> None:
    state = PackStream(Mixture([(manifest, 3), (other, 1)])).state_dict()
    for changed in (Mixture([(manifest, 2), (other, 1)]), manifest):
        with pytest.raises(ManifestError, match="same weights and periods"):
            PackStream(changed).load_state_dict(state)


def test_a_curriculum_closes_its_batches_where_a_period_ends(manifest: Path, other: Path) -> None:
    periods = [
        Period(other, epochs=1),
        Period(Mixture([(manifest, 1), (other, 1)]), packs=4),
        Period(manifest, packs=6),
    ]
    packs = list(PackStream(Curriculum(periods), global_batch=3))
    real = [pack.index for pack in packs if pack.loss_mask.any()]
    assert (len(packs), len(real)) == (18, 15)
    # Packs are numbered in their own manifest; what the mixture took of the second is not taken again.
    assert real[:5] == [0, 1, 2, 3, 4]
    second_epoch = epoch_order(read_manifest(other).id, 1, 5, 2)
    assert sorted(real[5:9]) == sorted([0, 1, *second_epoch[:2]])
    assert real[9:] == [2, 3, 4, 5, 6, 7]


def test_packs_of_different_lengths_never_share_a_batch(manifest: Path, tmp_path: Path) -> None:
    short = make_manifest(tmp_path / "short", [make_pack(7, seq_len=32, lengths=[20], images=False)])
    curriculum = Curriculum([Period(short, epochs=1), Period(manifest, epochs=1)])
    assert {len(pack.tokens) for pack in list(PackStream(curriculum, global_batch=4))[:4]} == {32}
    with pytest.raises(ValueError, match="packs of different lengths"):
        PackStream(curriculum, last="wrap")
