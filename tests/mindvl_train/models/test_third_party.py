"""A new dense model is one file and its weight names: `olmo2.py` beside this, equal to transformers' class."""

from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, Olmo2Config, Olmo2ForCausalLM

from mindvl_data.runtime import plugins as registry
from mindvl_train import plugins
from mindvl_train.config.loading import load_config
from mindvl_train.loop.run import train
from mindvl_train.weights.published.exporting import export_model
from tests.mindvl_train.models import olmo2
from tests.mindvl_train.parity import Composed, _composed, measure
from tests.mindvl_train.synthetic import write_run

LINES = 125


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a package that names the file's two objects under our groups."""
    points = {
        plugins.MODELS: EntryPoint("olmo2", f"{olmo2.__name__}:MODEL", plugins.MODELS),
        plugins.PUBLISHED: EntryPoint("olmo2", f"{olmo2.__name__}:PUBLISHED", plugins.PUBLISHED),
    }
    known = registry.available

    def available(group: str) -> dict[str, EntryPoint]:
        return known(group) | ({"olmo2": points[group]} if group in points else {})

    for module in (registry, plugins):
        monkeypatch.setattr(module, "available", available)


@pytest.fixture
def oracle() -> Callable[[], Composed]:
    return _composed(Olmo2ForCausalLM, Olmo2Config)


def test_it_is_imported_equal_trained_and_exported(
    installed: None, oracle: Callable[[], Composed], tmp_path: Path
) -> None:
    figures = measure(oracle, tmp_path)
    assert max(figures.logits.values()) <= 1e-5, figures.logits
    assert max(figures.gradients.values()) <= 1e-4, figures.worst_gradients()
    assert figures.logits_of_another > 1e-2
    model = {"name": "olmo2", "weights": str(tmp_path / "weights" / "imported")}
    path = write_run(tmp_path, model=model)
    quick = [f"stages.{stage}.until={{packs: 1}}" for stage in ("warmup", "everything")]
    train(load_config(path, quick), str(path), tmp_path / "run")
    report = export_model(tmp_path / "run", tmp_path / "out")
    assert report.written == ("language", "vision", "projector.safetensors")
    language, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "language", output_loading_info=True)
    assert isinstance(language, Olmo2ForCausalLM)
    assert not any(info.values()), info


def test_it_is_one_short_file() -> None:
    assert len(Path(olmo2.__file__).read_text().splitlines()) <= LINES
