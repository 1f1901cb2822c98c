"""The run's YAML: what is refused, and in which words."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from mindvl_train.config.loading import load_config
from mindvl_train.config.schema import ConfigError, Until
from tests.mindvl_train.synthetic import TINY_MODEL

STAGE: dict[str, Any] = {"manifest": "m.json", "lr": {"*": "1e-3"}, "until": {"epochs": 1}}
RUN: dict[str, Any] = {
    "name": "r",
    "model": {"name": "vlm", "config": TINY_MODEL},
    "stages": {"warmup": STAGE},
}


def _write(folder: Path, run: dict[str, Any]) -> Path:
    path = folder / "train.yaml"
    path.write_text(yaml.safe_dump(run))
    return path


def test_a_rate_without_a_point_is_a_number(tmp_path: Path) -> None:
    """YAML reads 1e-3 as text."""
    assert load_config(_write(tmp_path, RUN)).config.stages["warmup"].lr == {"*": 1e-3}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stagess=1", "stagess: unknown key; did you mean 'stages'?"),
        ("stages.warmup.trian=1", "stages.warmup.trian: unknown key; did you mean 'train'?"),
        ("stages.warmup.until.epoch=1", "stages.warmup.until.epoch: unknown key; did you mean 'epochs'?"),
        (
            "stages.warmup.schedule.wramup=1",
            "stages.warmup.schedule.wramup: unknown key; did you mean 'warmup'?",
        ),
        ("kernels.atention=auto", "kernels.atention: unknown key; did you mean 'attention'?"),
        ("zzz=1", "zzz: unknown key; known keys: name, seed, data"),
        ("stages.warmup.until.packs=3", "stages.warmup.until: give exactly one of epochs, packs, tokens, steps"),
        ("stages.warmup.micro_batch=2", "stages.warmup: micro_batch 2 does not divide global_batch 1"),
        ("stages.warmup.global_batch=0", "stages.warmup.global_batch: Input should be greater than 0"),
        ("stages={}", "stages: Dictionary should have at least 1 item"),
        ("loss_weight=mean", "loss_weight: Input should be 'token', 'sample' or 'square_root'"),
        ("name", "--set name: expected path.to.key=value"),
        ("name=[", "--set name=[: the value is not YAML"),
        ("name.inner=1", "--set name.inner=1: 'name' is a value, not a mapping"),
    ],
)
def test_what_does_not_fit_is_named_by_its_path(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(_write(tmp_path, RUN), [override])
    assert message in str(caught.value)


def test_set_replaces_and_adds_values(tmp_path: Path) -> None:
    path = _write(tmp_path, RUN)
    config = load_config(path, ["stages.warmup.lr={'projector.*': 2}", "optimizer.weight_decay=0.5"]).config
    assert config.stages["warmup"].lr == {"projector.*": 2.0}
    assert config.optimizer.weight_decay == 0.5


def test_variables_are_resolved_but_not_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUCKET", "s3://key:secret@host")
    stage = STAGE | {"manifest": "${BUCKET}/m.json", "train": ["${BUCKET}", "*"]}
    loaded = load_config(_write(tmp_path, RUN | {"stages": {"warmup": stage}}))
    assert loaded.config.stages["warmup"].manifest == "s3://key:secret@host/m.json"
    assert loaded.record["stages"]["warmup"]["manifest"] == "${BUCKET}/m.json"
    assert "secret" not in str(loaded.record)


def test_a_variable_that_is_not_set_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOWHERE", raising=False)
    with pytest.raises(ConfigError, match=r"stages.warmup.train.0: the environment variable NOWHERE is not set"):
        load_config(_write(tmp_path, RUN), ["stages.warmup.train=['${NOWHERE}']"])


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "cannot be read"), ("a: [", "not YAML"), ("- a", "holds no mapping")],
)
def test_a_file_that_is_no_run(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "train.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(path)


@pytest.mark.parametrize(
    ("until", "packs"), [({"epochs": 2}, 14), ({"packs": 5}, 5), ({"tokens": 100}, 5), ({"tokens": 96}, 4)]
)
def test_until_in_packs(until: dict[str, int], packs: int) -> None:
    assert Until(**until).in_packs(num_packs=7, seq_len=24) == packs
