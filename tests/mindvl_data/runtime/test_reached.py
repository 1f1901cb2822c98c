"""What a step depends on is found from the imports: code that is reached counts, comments and the rest do not."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mindvl_data.runtime import reached
from mindvl_data.runtime.reached import code, read_facts

STEP = '''"""A step."""

import numpy as np

from kitchen.oven import bake


def make(dough: int) -> int:
    """What comes out."""
    return bake(dough)  # a comment
'''
OVEN = "def bake(dough: int) -> int:\n    from kitchen import heat\n    return dough + heat.HEAT\n"


@pytest.fixture
def edited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Writes files of the package `kitchen` and says what the version of its step is then."""
    package = tmp_path / "kitchen"
    package.mkdir()
    files = {"__init__": "", "step": STEP, "oven": OVEN, "heat": "HEAT = 1\n", "sink": "WATER = 1\n"}
    monkeypatch.syspath_prepend(tmp_path)

    def version(**changed: str) -> str:
        for name, text in (files | changed).items():
            (package / f"{name}.py").write_text(text)
        code.cache_clear()
        reached._file_of.cache_clear()
        return code("kitchen.step")

    return version


def test_a_comment_a_docstring_and_layout_change_nothing(edited: Callable[..., str]) -> None:
    assert edited() == edited(step=STEP.replace("# a comment", "# another").replace("A step.", "The step, again."))
    assert edited() == edited(oven="# new\n" + OVEN.replace("    from", "\n    from"))


def test_a_module_that_is_reached_counts_even_through_a_late_import(edited: Callable[..., str]) -> None:
    assert edited() != edited(oven=OVEN.replace("+", "-"))
    assert edited() != edited(heat="HEAT = 2\n")


def test_a_module_that_is_not_reached_does_not_count(edited: Callable[..., str]) -> None:
    assert edited() == edited(sink="WATER = 2\n")


def test_a_library_that_decides_bytes_counts_by_its_version(
    edited: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = edited()
    monkeypatch.setattr(reached, "_version", lambda name: "2" if name == "numpy" else "1")
    with_numpy_2 = edited()
    monkeypatch.setattr(reached, "_version", lambda name: "1")
    assert len({before, with_numpy_2, edited()}) == 3


def test_imports_for_the_type_checker_alone_reach_nothing(tmp_path: Path) -> None:
    path = tmp_path / "typed.py"
    path.write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import kitchen.sink\n")
    assert "kitchen.sink" not in read_facts(path).imports


def test_a_module_that_is_not_there_is_named() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"kitchen\.cellar"):
        code("kitchen.cellar")


def test_the_scan_reaches_the_headers_of_images_and_not_the_packing() -> None:
    scanned, _ = reached._reach(["mindvl_data.steps.scan"])
    assert "mindvl_data.vision.header" in scanned
    assert not [name for name in scanned if name.startswith(("mindvl_data.packing", "mindvl_data.pipeline"))]
