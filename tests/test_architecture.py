"""Who may import whom: the rules of docs/architecture.md, as tests."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CONTRACT = {"vision", "shards", "manifest", "stream", "media", "verify", "errors"}
CONTRACT_LIBRARIES = {"numpy", "pyarrow", "PIL", "fsspec"}
STEPS = {"scan", "filters", "dedup", "balance", "count", "estimate", "holdout", "fit", "mix", "pack", "write"}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """Every module that a file imports, lazily or not; `from a import b` counts as a and as a.b."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative imports hide what is imported"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(path: Path) -> str:
    """The first name below the package: `vision` for mindvl_data/vision/header.py."""
    return path.relative_to(ROOT).with_suffix("").parts[1]


def rooms_of(path: Path, package: str = "mindvl_data") -> set[str]:
    names = (name.split(".") for name in imported(path))
    found = {name[1] for name in names if name[0] == package and len(name) > 1}
    return found - {room(path), "__version__"}


@pytest.mark.parametrize("path", [p for p in modules("mindvl_data") if room(p) in CONTRACT], ids=str)
def test_contract_modules_import_only_each_other_and_four_libraries(path: Path) -> None:
    outside = {name.split(".")[0] for name in imported(path)} - set(sys.stdlib_module_names)
    assert outside <= CONTRACT_LIBRARIES | {"mindvl_data"}
    assert rooms_of(path) <= CONTRACT


@pytest.mark.parametrize("path", [p for p in modules("mindvl_data") if room(p) in STEPS], ids=str)
def test_no_step_imports_another_step(path: Path) -> None:
    assert not rooms_of(path) & STEPS


def test_only_build_imports_steps_and_only_the_command_line_imports_build() -> None:
    for path in modules("mindvl_data"):
        if room(path) != "build":
            assert not rooms_of(path) & (STEPS - {room(path)}), path
        if room(path) != "cli":
            assert "build" not in rooms_of(path), path


def test_the_engine_never_imports_the_trainer_nor_torch() -> None:
    for path in modules("mindvl_data"):
        names = {name.split(".")[0] for name in imported(path)}
        assert "mindvl_train" not in names, path
        assert "torch" not in names or room(path) == "scores", path


def test_the_trainer_imports_only_contract_modules_of_the_engine() -> None:
    for path in modules("mindvl_train"):
        assert rooms_of(path) <= CONTRACT, path


def test_only_kernels_and_accelerators_name_torch_npu() -> None:
    for path in modules("mindvl_train"):
        if room(path) not in ("kernels", "accelerators"):
            assert "torch_npu" not in path.read_text(), path


@pytest.mark.parametrize("module", ["mindvl_data.stream", "mindvl_data.vision", "mindvl_train.loader"])
def test_a_data_loading_worker_never_loads_polars(module: str) -> None:
    code = f"import sys, {module}; sys.exit('polars' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_stream_needs_no_torch() -> None:
    code = "import sys, mindvl_data.stream; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_no_file_is_named_after_nothing() -> None:
    vague = {"utils", "util", "helpers", "helper", "common", "misc", "base"}
    assert not [p for package in ("mindvl_data", "mindvl_train") for p in modules(package) if p.stem in vague]
