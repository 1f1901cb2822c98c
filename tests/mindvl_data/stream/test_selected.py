"""An epoch of what was selected: its segments are the set's own, each once, for any ranks and from any position."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindvl_data.manifest import Manifest, ManifestError, packs_of, read_manifest
from mindvl_data.shards import Pack, SegmentTable
from mindvl_data.stream import PackStream, SelectedEpoch, segments_of, select_epoch
from tests.mindvl_data.packs import make_manifest, make_pack

PACKS = 23


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    rng = np.random.default_rng(0)
    packs = [make_pack(i, 64, (20, *rng.integers(5, 12, i % 4).tolist()), images=i % 3 > 0) for i in range(PACKS)]
    return read_manifest(make_manifest(tmp_path_factory.mktemp("set") / "set", packs))


@pytest.fixture(scope="module")
def segments(manifest: Manifest) -> SegmentTable:
    return segments_of(manifest)


def cut(packs: list[Pack]) -> dict[bytes, tuple[object, ...]]:
    """What stands in every segment, by sample; each may come once."""
    found: dict[bytes, tuple[object, ...]] = {}
    for pack in packs:
        for i, sample in enumerate(pack.sample_ids):
            begin, stop = pack.cu_seqlens[i : i + 2].tolist()
            mine = [image for image in pack.images if begin <= image.start < stop]
            images = tuple((image.start - begin, image.grid, bytes(image.data or b"")) for image in mine)
            assert sample not in found
            ids, mask = pack.tokens[begin:stop].tolist(), pack.loss_mask[begin:stop].tolist()
            found[sample] = (ids, mask, images, pack.sources[i], pack.repeats[i])
    return found


def test_the_table_of_segments_is_what_packs_hold(manifest: Manifest, segments: SegmentTable) -> None:
    packs = list(packs_of(manifest))
    assert segments.pack.tolist() == [pack.index for pack in packs for _ in pack.sample_ids]
    assert segments.number.tolist() == [i for pack in packs for i in range(len(pack.sample_ids))]
    assert segments.length.tolist() == [n for pack in packs for n in np.diff(pack.cu_seqlens)[: len(pack.sample_ids)]]
    assert segments.ids.tobytes() == b"".join(sample for pack in packs for sample in pack.sample_ids)
    assert segments.repeat.tolist() == [n for pack in packs for n in pack.repeats]
    # The one image of a pack stands in its first segment.
    assert segments.patches.tolist() == [
        pack.num_patches if i == 0 else 0 for pack in packs for i in range(len(pack.sample_ids))
    ]


def selected(manifest: Manifest, segments: SegmentTable, seed: int, share: float, epoch: int = 1) -> SelectedEpoch:
    rng = np.random.default_rng(seed)
    kept = rng.random(len(segments)) < share
    kept[rng.integers(len(segments))] = True
    return select_epoch(manifest, segments, kept, rng.integers(1, 4, len(segments)) / 2, epoch)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 99), st.floats(0, 1), st.integers(1, 3), st.integers(1, 3), st.integers(0, 40))
def test_what_is_kept_comes_once_whoever_reads_it_and_wherever_it_goes_on(
    manifest: Manifest, segments: SegmentTable, seed: int, share: float, world: int, per_rank: int, stop: int
) -> None:
    chosen = selected(manifest, segments, seed, share)
    before: list[Pack] = []
    streams = [PackStream(chosen, rank, world, world * per_rank, epochs=None) for rank in range(world)]
    while (step := streams[0].step_at(streams[0].state_dict()["packs"])).slots and len(before) < stop:
        for stream in streams:
            mine = stream.step_at(stream.state_dict()["packs"])
            before += [stream.read(slot) for slot in mine.slots]
            stream.advance(mine)
    del step
    # The rest on one rank, a pack at a time.
    alone = PackStream(chosen)
    alone.load_state_dict(streams[0].state_dict())
    found = [pack for pack in [*before, *alone] if pack.num_tokens]
    everything = cut(list(packs_of(manifest)))
    sizes = [len(pack.tokens) for pack in found]
    assert set(sizes) == {manifest.seq_len}
    mine = cut(found)
    ids = np.ascontiguousarray(segments.ids).view("S16").ravel()
    kept = np.zeros(len(segments), bool)
    starts = np.searchsorted(segments.pack, np.arange(PACKS))
    kept[starts[chosen.pack] + chosen.number] = True
    assert mine == {bytes(sample).ljust(16, b"\0"): everything[bytes(sample).ljust(16, b"\0")] for sample in ids[kept]}


def test_packs_are_full_and_say_what_they_cost_and_weigh(manifest: Manifest, segments: SegmentTable) -> None:
    weights = np.linspace(1, 2, len(segments))
    chosen = select_epoch(manifest, segments, np.ones(len(segments), bool), weights, 0)
    packs = list(PackStream(chosen, deal="cost"))
    assert len(packs) <= -(-int(segments.length.sum()) // 64) + 1 < PACKS
    assert [(pack.attention_cost, pack.num_patches) for pack in packs] == [tuple(row) for row in chosen.costs.tolist()]
    by_sample = {sample: weight for pack in packs for sample, weight in zip(pack.sample_ids, pack.weights, strict=True)}
    asked = [by_sample[sample.tobytes()] for sample in segments.ids]
    assert np.allclose(asked, weights)


def test_a_plan_is_a_function_of_what_is_kept_and_its_name_knows_it(manifest: Manifest, segments: SegmentTable) -> None:
    one, again, other, later = (
        selected(manifest, segments, *how) for how in ((1, 0.5, 1), (1, 0.5, 1), (2, 0.5, 1), (1, 0.5, 2))
    )
    assert one.name == again.name
    assert len({one.name, other.name, later.name}) == 3
    with pytest.raises(ManifestError, match="belongs to"):
        PackStream(other).load_state_dict(PackStream(one).state_dict())
    with pytest.raises(ManifestError, match=r"epoch 3 would keep none of its \d+ segments"):
        select_epoch(manifest, segments, np.zeros(len(segments), bool), np.ones(len(segments)), 3)


def test_the_recipes_limits_of_a_pack_hold(manifest: Manifest, segments: SegmentTable) -> None:
    every = np.ones(len(segments), bool)
    free = list(PackStream(select_epoch(manifest, segments, every, every.astype(float), 0)))
    patches, samples = (lambda pack: pack.num_patches), (lambda pack: len(pack.sources))
    for limit, most, found in (("max_patches", 16, patches), ("max_samples", 2, samples)):
        recipe = {"stages": {"stage": {limit: most}}}
        limited = replace(manifest, data={**manifest.data, "recipe": recipe})
        packs = list(PackStream(select_epoch(limited, segments, every, every.astype(float), 0)))
        assert max(map(found, packs)) <= most < max(map(found, free))
