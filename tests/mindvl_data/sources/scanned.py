"""One file through its reader and the scan, as the build does it: what the samples table and the ledger then say."""

import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from mindvl_data.sources import Asked
from mindvl_data.sources.files import FingerprintCache, source_files
from mindvl_data.steps.scan import Rules, ScanTask, scan
from mindvl_data.tables.schema import sample_ids


@dataclass(frozen=True)
class Scanned:
    """kept: the samples table's lines; data: the kept fields of each. drops: reason and detail by key."""

    kept: list[dict[str, Any]]
    data: list[dict[str, Any]]
    drops: dict[str, tuple[str, str]]
    media: bytes
    task: ScanTask

    @property
    def found(self) -> int:
        return len(self.kept) + len(self.drops)

    @property
    def keys(self) -> list[str]:
        return [line["key"] for line in self.kept]

    def image(self, number: int, which: int = 0) -> bytes:
        """The bytes to which a kept line's pointer leads."""
        image = self.kept[number]["images"][which]
        folder = Path(self.task.file.image_root if image["uri"] != self.task.file.uri else self.task.file.place)
        if image["uri"].startswith("build:"):
            data = self.media
        elif image["uri"] == self.task.file.uri:
            data = folder.read_bytes()
        else:
            data = (folder / Path(image["uri"]).relative_to(self.task.file.image_uri or ".")).read_bytes()
        return data[image["offset"] : image["offset"] + image["size"]]


def read(
    path: Path,
    format_name: str,
    images: str | None = None,
    asked: Asked | None = None,
    rules: Rules | None = None,
    subset: Path | None = None,
    digest: bool = False,
) -> Scanned:
    """Scan one file into a fresh folder."""
    out = Path(tempfile.mkdtemp(dir=path.parent, prefix="scan-"))
    (file,) = source_files(
        (path.name,), (path.name,), images and (images, images), path.parent, FingerprintCache(out / "none.json")
    )
    task = ScanTask(
        "s", format_name, file, asked or Asked(), rules or Rules(), digest, subset, out / "s.parquet", out / "s.bin"
    )
    scan(task)
    drops = pq.read_table(task.drops).to_pylist()
    keyed = {line["locator"].removeprefix(f"{file.uri}#"): (line["reason"], line["detail"]) for line in drops}
    assert len(keyed) == len(drops)
    kept = pq.read_table(task.samples).to_pylist()
    assert sample_ids("s", file.path, [line["key"] for line in kept]) == [line["sample_id"] for line in kept]
    assert max(Counter(line["sample_id"] for line in kept + drops).values(), default=1) == 1
    data = pq.read_table(task.columns).to_pylist() if task.asked.keep else []
    media = task.media.read_bytes() if task.media.exists() else b""
    return Scanned(kept, data, keyed, media, task)
