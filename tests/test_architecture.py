"""Who may import whom: the rules of docs/architecture.md, as tests."""

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CONTRACT = {
    "atomic",
    "vision",
    "packing",
    "random_words",
    "shards",
    "manifest",
    "stream",
    "media",
    "note",
    "qwen",
    "expanded",
    "errors",
    "machine_code",
}
CONTRACT_LIBRARIES = {"numpy", "numba", "pyarrow", "PIL", "simplejpeg", "fsspec"}
STEPS = {p.stem for p in (ROOT / "mindvl_data" / "steps").iterdir() if not p.stem.startswith("__")}


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
    # PyAV is an extra: it is imported where a clip is opened, never with the module.
    clips = {"av"} if "video" in path.parts else set()
    assert outside <= CONTRACT_LIBRARIES | {"mindvl_data"} | clips
    assert rooms_of(path) <= CONTRACT


def steps_of(path: Path) -> set[str]:
    names = (name.split(".") for name in imported(path))
    return {name[2] for name in names if name[:2] == ["mindvl_data", "steps"] and len(name) > 2}


@pytest.mark.parametrize("path", modules("mindvl_data/steps"), ids=str)
def test_no_step_imports_another_step(path: Path) -> None:
    own = path.relative_to(ROOT / "mindvl_data" / "steps").with_suffix("").parts[0]
    assert steps_of(path) <= ({own, "presets"} if own == "filters" else {own})


def test_only_the_pipeline_imports_steps_and_only_the_command_line_imports_the_pipeline() -> None:
    for path in modules("mindvl_data"):
        if room(path) not in ("pipeline", "steps"):
            assert "steps" not in rooms_of(path), path
        if room(path) != "cli":
            assert "pipeline" not in rooms_of(path), path


def test_the_engine_never_imports_the_trainer_nor_torch() -> None:
    for path in modules("mindvl_data"):
        names = {name.split(".")[0] for name in imported(path)}
        assert "mindvl_train" not in names, path
        assert "torch" not in names or path.is_relative_to(ROOT / "mindvl_data" / "steps" / "scores"), path


def test_the_trainer_imports_only_contract_and_runtime_of_the_engine() -> None:
    for path in modules("mindvl_train"):
        assert rooms_of(path) <= CONTRACT | {"runtime"}, path


def graph(package: str, depth: int) -> dict[str, set[str]]:
    """Which module (all of `depth`) or room (depth 2) of a package imports which others."""
    known = {".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for p in modules(package)}
    found: dict[str, set[str]] = {}
    for path in modules(package):
        own = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        named = {name if name in known else name.rpartition(".")[0] for name in imported(path)} & known
        # `from a import b` where b is a module imports a.b; that its package runs first is no dependency.
        targets = {name for name in named if not any(other.startswith(f"{name}.") for other in named)}
        cut = {".".join(target.split(".")[:depth]) for target in targets}
        me = ".".join(own.split(".")[:depth])
        found.setdefault(me, set()).update(cut - {me, package})
    return found


@pytest.mark.parametrize("package", ["mindvl_data", "mindvl_train"])
@pytest.mark.parametrize("depth", [2, 9], ids=["rooms", "modules"])
def test_imports_go_round_no_circle(package: str, depth: int) -> None:
    try:
        tuple(TopologicalSorter(graph(package, depth)).static_order())
    except CycleError as circle:
        pytest.fail(" -> ".join(circle.args[1]))


def test_only_kernels_and_accelerators_name_torch_npu() -> None:
    for path in modules("mindvl_train"):
        if room(path) not in ("kernels", "accelerators"):
            assert "torch_npu" not in path.read_text(), path


@pytest.mark.parametrize("module", ["mindvl_data.stream", "mindvl_data.vision", "mindvl_train.data.loader"])
def test_a_data_loading_worker_never_loads_polars(module: str) -> None:
    code = f"import sys, {module}; sys.exit('polars' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_stream_needs_no_torch() -> None:
    code = "import sys, mindvl_data.stream; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_no_file_is_named_after_nothing() -> None:
    vague = {"utils", "util", "helpers", "helper", "common", "misc", "base"}
    assert not [p for package in ("mindvl_data", "mindvl_train") for p in modules(package) if p.stem in vague]


def documented() -> list[str]:
    """What docs/api.md shows, and the packages that it names for plugins."""
    page = (ROOT / "docs" / "api.md").read_text()
    return re.findall(r"^::: ([\w.]+)$", page, re.M) + re.findall(r"\| `([\w.]+)` \|$", page, re.M)


@pytest.mark.parametrize("name", documented())
def test_what_the_documentation_promises_is_listed_by_its_package(name: str) -> None:
    path = ROOT.joinpath(*name.split("."))
    is_module = path.is_dir() or path.with_suffix(".py").is_file()
    package, member = (name, None) if is_module else (name.rpartition(".")[0], name.rpartition(".")[2])
    listed = importlib.import_module(package).__all__
    assert list(listed) == sorted(set(listed), key=lambda each: (not each.isupper(), not each[0].isupper(), each))
    assert member is None or member in listed
