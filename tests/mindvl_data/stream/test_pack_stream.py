"""The cursor: every pack exactly once an epoch, whatever the topology and however often it changes."""

from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindvl_data.manifest import ManifestError
from mindvl_data.stream import Last, PackStream
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
