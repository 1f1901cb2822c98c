"""A package of somebody else, installed, brings a model, an accelerator and more: a run finds them by name."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.mindvl_train.synthetic import VOCAB_SIZE, write_run

ROOT = Path(__file__).parents[2]
MODULE = '''
"""Predicts each token from the one before it, on a device that it calls its own."""

from pathlib import Path

import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict
from torch import nn

from mindvl_train.accelerators import Accelerator
from mindvl_train.kernels.registry import KernelSpec
from mindvl_train.models.spec import ModelInputs, ModelSpec


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    vocab_size: int
    hidden_size: int = 16


class Pairs(nn.Module):
    def __init__(self, config, kernels):
        super().__init__()
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.kernels = kernels

    def forward(self, batch):
        hidden = self.embed(batch.ids)
        hidden = hidden + self.kernels.swiglu(hidden, hidden)
        losses = self.kernels.cross_entropy(hidden[batch.predictors], self.head.weight, batch.targets)
        return (losses * batch.weights).sum()


class Lines:
    def __init__(self, folder):
        self.path = Path(folder) / "acme.txt"

    def begin(self, step, total_tokens, done_tokens):
        self.file = self.path.open("w")

    def log(self, record):
        self.file.write(record["event"] + "\\n")

    def close(self):
        self.file.close()


class Heard:
    def __init__(self, folder):
        self.path = Path(folder) / "heard.txt"

    def __call__(self, record, model):
        with self.path.open("a") as file:
            file.write(f"{record['event']} {record['step']} {model.head.weight.norm().item()}\\n")


def half(step, total, config):
    return 0.5


MODEL = ModelSpec(
    config=Config,
    inputs=lambda config: ModelInputs(vocab_size=config.vocab_size, patch=14, merge=2),
    build=Pairs,
    after_step=lambda model: {"acme_norm": model.head.weight.norm().item()},
)
ACCELERATOR = Accelerator("cpu", "gloo", lambda: True)
SWIGLU = KernelSpec(devices=frozenset({"cpu"}), load=lambda: lambda gate, up: F.silu(gate) * up)
'''
ENTRY_POINTS = """
[mindvl_train.models]
acme = acme_mindvl:MODEL

[mindvl_train.accelerators]
acme = acme_mindvl:ACCELERATOR

[mindvl_train.kernels]
swiglu.acme = acme_mindvl:SWIGLU

[mindvl_train.schedules]
half = acme_mindvl:half

[mindvl_train.loggers]
acme = acme_mindvl:Lines

[mindvl_train.callbacks]
acme = acme_mindvl:Heard
"""
WHEEL = {
    "acme_mindvl.py": MODULE,
    "acme_mindvl-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: acme-mindvl\nVersion: 1.0\n",
    "acme_mindvl-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "acme_mindvl-1.0.dist-info/entry_points.txt": ENTRY_POINTS,
}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that pip installed the package into."""
    folder = tmp_path_factory.mktemp("acme")
    wheel = folder / "acme_mindvl-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        for name, text in WHEEL.items():
            file.writestr(name, text)
        record = "acme_mindvl-1.0.dist-info/RECORD"
        file.writestr(record, "".join(f"{name},,\n" for name in [*WHEEL, record]))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target"]
    subprocess.run([*pip, str(folder / "site"), str(wheel)], check=True, capture_output=True)
    return folder / "site"


def _run(path: Path, *site: Path) -> subprocess.CompletedProcess[str]:
    found = os.pathsep.join([str(ROOT), *map(str, site)])
    command = [sys.executable, "-m", "mindvl_train", "run", str(path), "--json"]
    environment = os.environ | {"PYTHONPATH": found}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)


def _their_run(folder: Path) -> Path:
    stage = {"manifest": "first/manifest.json", "lr": {"*": 0.1}, "until": {"epochs": 4}, "global_batch": 7}
    return write_run(
        folder,
        model={"name": "acme", "config": {"vocab_size": VOCAB_SIZE}},
        accelerator="acme",
        kernels={"swiglu": "acme"},
        loggers=["acme"],
        callbacks=["acme"],
        stages={"only": stage | {"schedule": {"name": "half"}}},
    )


def test_a_package_adds_a_model_an_accelerator_and_more(installed: Path, tmp_path: Path) -> None:
    result = _run(_their_run(tmp_path), installed)
    assert result.returncode == 0, result.stderr
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [record for record in records if record["event"] == "step"]
    assert records[0]["kernels"]["swiglu"] == "acme"
    assert [step["lr"] for step in steps] == [{"*": 0.05}] * 4
    assert all(step["acme_norm"] > 0 for step in steps)
    assert steps[-1]["loss"] < steps[0]["loss"]
    heard = [line.split() for line in (tmp_path / "run" / "heard.txt").read_text().splitlines()]
    happened = [f"{event} {step}" for event, step, _ in heard]
    assert [each for each in happened if "checkpoint" not in each] == [f"{r['event']} {r['step']}" for r in records]
    assert happened[-2:] == ["stage 4", "checkpoint 4"]
    assert happened.index("checkpoint 2") == happened.index("step 2") + 1
    # It saw the model as the step left it.
    norms = {step: float(norm) for event, step, norm in heard if event == "step"}
    assert norms == {str(step["step"]): step["acme_norm"] for step in steps}
    assert (tmp_path / "run" / "acme.txt").read_text().split() == [record["event"] for record in records]


def test_without_the_package_the_names_are_unknown(tmp_path: Path) -> None:
    result = _run(_their_run(tmp_path))
    assert result.returncode == 2
    assert "plugin is called 'acme'" in result.stderr
    assert not (tmp_path / "run").exists()
