"""Stages that choose, epoch by epoch, what they train on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mindvl_data.errors import UserError
from mindvl_data.manifest import read_manifest
from mindvl_data.stream import PackStream, segments_of, select_epoch
from mindvl_train.config.loading import load_config
from mindvl_train.config.schema import ConfigError, SelectionConfig
from mindvl_train.data.batch import collate
from mindvl_train.loop.metrics import read_records
from mindvl_train.loop.selections import infobatch
from tests.mindvl_train.short_runs import Stop, StopAt, records_of, run_of
from tests.mindvl_train.synthetic import LAYOUT, tiny_model, write_run

EPOCHS = 4


def short(name: str) -> list[str]:
    rule = f"stages.everything.selection={{name: {name}, prune: 0.4, groups: 3, window: 0.4, full: 0.25}}"
    return ["stages.warmup.until={packs: 4}", f"stages.everything.until={{epochs: {EPOCHS}}}", rule]


@pytest.fixture(scope="module")
def run_yaml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"))


def epochs_of(out: Path) -> list[dict[str, Any]]:
    return [record for record in read_records(out / "metrics.jsonl") if record["event"] == "epoch"]


@pytest.mark.parametrize("name", ["infobatch", "seta"])
def test_epochs_shrink_and_a_killed_run_goes_on_with_the_same_packs(run_yaml: Path, tmp_path: Path, name: str) -> None:
    run_of(run_yaml, tmp_path / "whole", *short(name))
    told = epochs_of(tmp_path / "whole")
    sizes = [epoch["segments"] for epoch in told]
    assert [epoch["epoch"] for epoch in told] == list(range(EPOCHS))
    whole = told[0]["of"] if name == "infobatch" else int(0.6 * told[0]["of"])
    assert sizes[-1] == whole > min(sizes[:-1])
    # In the middle of an epoch, at its last step, at its first.
    ends = np.cumsum([-(-epoch["packs"] // 3) for epoch in told]) + 2
    for stop in (3, int(ends[0]), int(ends[0]) + 1, int(ends[1])):
        with pytest.raises(Stop):
            run_of(run_yaml, tmp_path / "cut", *short(name), stop=StopAt("step", stop))
    run_of(run_yaml, tmp_path / "cut", *short(name))
    assert records_of(tmp_path / "cut") == records_of(tmp_path / "whole")


def test_rates_follow_the_epochs_however_few_packs_they_have(run_yaml: Path, tmp_path: Path) -> None:
    line = ["stages.everything.schedule={name: wsd, decay: 1.0}", "stages.everything.lr={'*': 1.0}"]
    tiny = ["stages.everything.lr={'*': 1.0e-9}"]
    run_of(run_yaml, tmp_path, *short("seta"), *line[:1], *tiny)
    steps = [record for record in read_records(tmp_path / "metrics.jsonl") if record["event"] == "step"]
    rates = [record["lr"]["*"] / 1e-9 for record in steps if record["stage"] == "everything"]
    firsts = [epoch["step"] - epochs_of(tmp_path)[0]["step"] for epoch in epochs_of(tmp_path)]
    assert [rates[place] for place in firsts] == pytest.approx([1, 0.75, 0.5, 0.25])


def test_the_models_gradient_over_what_infobatch_may_keep_is_that_of_all(run_yaml: Path) -> None:
    """Both outcomes of a draw of one out of two, through packing, weights and the model."""
    manifest = read_manifest(load_config(run_yaml).config.data + "/second/manifest.json")
    segments, model = segments_of(manifest), tiny_model()
    losses = np.full(len(segments), 9.0)
    losses[[2, 5]] = 1.0
    config = SelectionConfig(name="infobatch", prune=0.5, full=0.0)

    def gradient(kept: np.ndarray, weights: np.ndarray) -> torch.Tensor:
        packs = list(PackStream(select_epoch(manifest, segments, kept, weights, 0)))
        model.zero_grad()
        model(collate(packs, LAYOUT)).backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    whole = gradient(np.ones(len(segments), bool), np.ones(len(segments)))
    outcomes = []
    for first in (2, 5):
        words = np.ones(len(segments), np.uint64)
        words[first] = 0
        kept, weights = infobatch(losses, words, 0, 1, config)
        assert (kept[first], weights[first], kept.sum()) == (True, 2.0, len(segments) - 1)
        outcomes.append(gradient(kept, weights))
    assert not torch.allclose(outcomes[0], whole, rtol=1e-2)
    torch.testing.assert_close((outcomes[0] + outcomes[1]) / 2, whole, rtol=1e-3, atol=1e-4 * whole.abs().max().item())


def test_a_selection_needs_epochs_and_a_name_that_is_known(run_yaml: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"selection: it chooses epoch by epoch, so give `until: \{epochs: N\}`"):
        load_config(run_yaml, ["stages.everything.until={packs: 6}", "stages.everything.selection={name: seta}"])
    with pytest.raises(Exception, match="'sata'; did you mean 'seta'"):
        run_of(run_yaml, tmp_path, "stages.everything.selection={name: sata}")


def test_losses_that_are_lost_or_damaged_are_never_taken_for_what_they_were(run_yaml: Path, tmp_path: Path) -> None:
    for name, message in (("lost", r"has \d+ losses up to step \d+, the run has kept"), ("cut", "cannot be read as")):
        out = tmp_path / name
        with pytest.raises(Stop):
            run_of(run_yaml, out, *short("seta"), stop=StopAt("step", 5))
        part = sorted((out / "losses").glob("*.parquet"))[0]
        if name == "lost":
            part.unlink()
        else:
            part.write_bytes(part.read_bytes()[:50])
        with pytest.raises(UserError, match=message):
            run_of(run_yaml, out, *short("seta"))
