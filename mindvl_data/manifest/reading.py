"""Reading a manifest, from here or from a store: its seal, its version and its form are checked."""

from __future__ import annotations

import hashlib
import json
import os
import re
from functools import partial
from pathlib import Path
from typing import Any

from mindvl_data.manifest.document import FILE_NAME, READABLE_VERSIONS, Manifest, ManifestError
from mindvl_data.manifest.first_version import translated
from mindvl_data.manifest.form import problems_of_form
from mindvl_data.shards import ShardCache, patiently, store_of

SEAL_NAME = f"{FILE_NAME}.sha256"
SEAL = re.compile(rb"([0-9a-f]{64})(  manifest\.json)?\n?")


def read_manifest(path: str | Path, cache: ShardCache | None = None) -> Manifest:
    """Read and check a manifest: its hash, version and keys; not its shards, see `verify`.

    Args:
        path: The file, or the folder that holds it, here or as a URL of any store that fsspec knows.
        cache: Of a store's shards; by default the one that the environment names.

    Raises:
        ManifestError: It is missing, altered, of an unknown version, or none.
        StoreError: The store does not answer.
    """
    if "://" in str(path):
        return _read_from_store(str(path).removesuffix(f"/{FILE_NAME}").rstrip("/"), cache or ShardCache())
    path = Path(path)
    path = path / FILE_NAME if path.is_dir() else path
    try:
        raw, seal = path.read_bytes(), path.with_name(SEAL_NAME).read_bytes()
    except FileNotFoundError as error:
        raise ManifestError(
            f"{error.filename}: no such file; a finished build has manifest.json and manifest.json.sha256 together"
        ) from error
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read ({error}); build the data set again") from error
    return Manifest(path, _checked(raw, seal, str(path)))


def _read_from_store(url: str, cache: ShardCache) -> Manifest:
    """A manifest as it stands in the store now; a copy is kept for tools that want a file."""
    store, place = store_of(url)
    raw, seal = (
        bytes(patiently(partial(store.cat_file, f"{place}/{name}"), f"{url}/{name}", cache.patience))
        for name in (FILE_NAME, SEAL_NAME)
    )
    data = _checked(raw, seal, f"{url}/{FILE_NAME}")
    folder = cache.folder / "manifests" / hashlib.sha256(raw).hexdigest()[:32]
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in ((SEAL_NAME, seal), (FILE_NAME, raw)):
        unfinished = folder / f"{name}.{os.getpid()}"
        unfinished.write_bytes(content)
        unfinished.rename(folder / name)
    return Manifest(folder / FILE_NAME, data, url, cache)


def _checked(raw: bytes, seal: bytes, where: str) -> dict[str, Any]:
    """The manifest of these bytes. Raises ManifestError, naming `where`."""
    sealed = SEAL.fullmatch(seal)
    if sealed is None:
        raise ManifestError(f"{where}.sha256: altered since it was written (holds no sha256); build the data set again")
    if hashlib.sha256(raw).hexdigest() != sealed[1].decode():
        raise ManifestError(f"{where}: altered since it was written (its sha256 differs); build the data set again")
    try:
        data = json.loads(raw)
    except ValueError as error:
        raise ManifestError(f"{where}: not JSON ({error}); build the data set again") from error
    version = data.get("format_version") if isinstance(data, dict) else None
    if version not in READABLE_VERSIONS:
        raise ManifestError(
            f"{where}: format_version is {version}, this version reads {' and '.join(map(str, READABLE_VERSIONS))}; "
            "build the data set again, or use the version that wrote it"
        )
    if version == 1:
        data = translated(data)
    problems = problems_of_form(data)
    if problems:
        raise ManifestError(f"{where}: not of the form of a manifest ({'; '.join(problems)}); build the data set again")
    return dict(data)
