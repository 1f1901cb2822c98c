"""Every way to say a mixture, from the recipe to the manifest and the packs."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mindvl_data.manifest import read_manifest
from mindvl_data.manifest.verify import verify
from mindvl_data.pipeline import BuildReport, build
from mindvl_data.recipe import load_recipe
from mindvl_data.shards import Pack
from mindvl_data.steps.mix import MixError
from mindvl_data.stream import PackStream
from tests.conftest import QUICKSTART


@pytest.fixture(scope="module")
def out(quickstart: BuildReport, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build folder that keeps what every mixture shares: the scan and the tokens."""
    return tmp_path_factory.mktemp("mixtures")


def multitask(out: Path, *overrides: str) -> tuple[dict[str, Any], list[Pack]]:
    """The mixture of the manifest, and the packs, of the quickstart's second stage alone."""
    rest = ("holdout=null", "stages={}", "stages.multitask={seq_len: 4096, by: tokens}")
    report = build(load_recipe(QUICKSTART / "recipe.yaml", [*rest, *overrides]), out)
    manifest = read_manifest(out / report.stages[0].name)
    assert [p for _, problems in verify(manifest) for p in problems] == []
    return manifest.data["mixture"], list(PackStream(manifest))


def passes(packs: list[Pack]) -> dict[str, Counter[int]]:
    """Per source, how many samples were drawn how often."""
    drawn = Counter((source, uid) for pack in packs for source, uid in zip(pack.sources, pack.sample_ids, strict=True))
    counts: dict[str, Counter[int]] = {}
    for (source, _), times in drawn.items():
        counts.setdefault(source, Counter())[times] += 1
    return counts


def test_epochs_of_each_source_pass_it_so_often(out: Path) -> None:
    mixture, packs = multitask(out, "stages.multitask.mixture={vqa: {epochs: 2}, g: {text: {epochs: 1}}}")
    found = passes(packs)
    assert set(found["vqa"]) == {2}
    assert set(found["text"]) == {1}
    assert mixture["budget"] is None
    vqa = mixture["sources"]["vqa"]
    assert vqa["actual"]["epochs"] == vqa["target"]["epochs"] == 2
    assert vqa["actual"]["samples"] == 2 * vqa["pool"]["samples"] == 2 * found["vqa"][2]
    assert mixture["groups"]["g"]["target"] == mixture["sources"]["text"]["target"]["share"]


@pytest.mark.parametrize("by", ["samples", "loss_tokens"])
def test_shares_of_something_else_than_tokens(out: Path, by: str) -> None:
    mixture, packs = multitask(
        out,
        f"stages.multitask.by={by}",
        "stages.multitask.budget={tokens: 60_000}",
        "stages.multitask.mixture={vqa: 0.6, pictures: {captions: 0.75, documents: 0.25}}",
    )
    assert mixture["by"] == by
    total = mixture["total"][by]
    longest = max(int(segment) for pack in packs for segment in pack.cu_seqlens[1:] - pack.cu_seqlens[:-1])
    assert 60_000 <= mixture["total"]["tokens"] < 60_000 + longest
    for name, share in (("vqa", 0.6), ("captions", 0.3), ("documents", 0.1)):
        line = mixture["sources"][name]
        assert line["target"]["share"] == pytest.approx(share)
        assert line["actual"]["share"] == pytest.approx(line["actual"][by] / total, abs=1e-6)
        assert abs(line["actual"]["share"] - share) < 0.05
        assert line["actual"]["samples"] == sum(source == name for pack in packs for source in pack.sources)
    assert mixture["groups"]["pictures"]["target"] == pytest.approx(0.4)


@pytest.mark.parametrize("asked", [1, 7, 30])
def test_a_budget_in_packs_makes_so_many(out: Path, asked: int) -> None:
    shares = "stages.multitask.mixture={vqa: 0.5, captions: 0.5}"
    _, packs = multitask(out, f"stages.multitask.budget={{packs: {asked}}}", shares)
    assert len(packs) == asked
    more, _ = multitask(out, f"stages.multitask.budget={{tokens: {asked * 4096 + 4096}}}", shares)
    assert more["total"]["tokens"] > sum(pack.num_tokens for pack in packs) > (asked - 1) * 4096


def test_a_budget_in_packs_of_two_lengths_draws_once(out: Path) -> None:
    overrides = ("stages.multitask.seq_len=[2048, 4096]", "stages.multitask.mixture={vqa: 0.5, captions: 0.5}")
    _, packs = multitask(out, "stages.multitask.budget={packs: 9}", *overrides)
    assert len(packs) == 9
    longer = list(PackStream(out / "multitask-4096"))
    assert sorted(i for pack in packs for i in pack.sample_ids) == sorted(i for p in longer for i in p.sample_ids)


def test_temperature_flattens_the_shares_of_what_is_there(out: Path) -> None:
    budget = "stages.multitask.budget={epochs: 1}"
    mixture, _ = multitask(out, budget, "stages.multitask.mixture={temperature: 2, vqa: 1, captions: 1, text: 1}")
    sources = mixture["sources"]
    roots = {name: line["pool"]["tokens"] ** 0.5 for name, line in sources.items()}
    for name, root in roots.items():
        assert sources[name]["target"]["share"] == pytest.approx(root / sum(roots.values()), abs=1e-6)
    assert max(line["target"]["epochs"] for line in sources.values()) == 1


def test_a_source_too_small_for_its_share_stops_the_build_before_anything_is_written(tmp_path: Path) -> None:
    asked = ["stages.sft.by=samples", "stages.sft.budget={samples: 900}", "stages.sft.max_epochs=2"]
    with pytest.raises(MixError, match=r"stages\.sft\.budget: 900 samples at a share of 0\.48 pass documents"):
        build(load_recipe(QUICKSTART / "recipe.yaml", asked), tmp_path / "out")
    assert not list((tmp_path / "out").glob("*/manifest.json"))
