"""The scale benchmark goes through the build's own steps; here on so few samples that it only must not rot."""

from pathlib import Path

import pytest

from tests.benchmarks import scale


def test_the_scale_benchmark_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "PARTITION", 500)
    scale.write_tables(tmp_path, 1500)
    steps = scale.measured(tmp_path)
    assert [name for name, *_ in steps][-1] == "draws"
    assert all(peak > 0 for *_, peak in steps)
