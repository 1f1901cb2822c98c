"""What a manifest is: its keys, and the file that holds them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mindvl_data.errors import UserError
from mindvl_data.expanded import masked_values
from mindvl_data.shards import ShardCache, ShardInfo
from mindvl_data.vision import Resolution

FORMAT_VERSION = 2
# Version 1 differs in nothing but what it cannot say.
READABLE_VERSIONS = (1, FORMAT_VERSION)
FILE_NAME = "manifest.json"
KEYS = (
    "format_version",
    "id",
    "recipe_hash",
    "recipe",
    "engine_version",
    "stage",
    "seq_len",
    "tokenizer",
    "chat_template",
    "resolution",
    "loss_weights",
    "sources",
    "scores",
    "evaluations",
    "rewritten",
    "funnel",
    "mixture",
    "packing",
    "order",
    "draws",
    "shards",
)
# What only some recipes have.
OPTIONAL = frozenset({"loss_weights", "scores", "evaluations", "rewritten"})


class ManifestError(UserError):
    """A manifest that cannot be trusted; the message says what, where and what to do."""


@dataclass(frozen=True)
class Manifest:
    """A verified manifest: `data` is the whole of it, the properties are what a loader needs.

    path: where it lies; of one in a store, its copy here. store: the URL of its folder there. cache: where files
    of the store are kept here.
    """

    path: Path
    data: Mapping[str, Any]
    store: str | None = None
    cache: ShardCache | None = None

    @property
    def where(self) -> str:
        """Its place, for messages."""
        return str(self.path) if self.store is None else f"{self.store}/{FILE_NAME}"

    @property
    def build_folder(self) -> str:
        """The folder or URL that the build wrote: the manifest's own lies below it."""
        return str(self.path.parent.parent) if self.store is None else self.store.rpartition("/")[0]

    @property
    def id(self) -> str:
        return str(self.data["id"])

    @property
    def stage(self) -> str:
        return str(self.data["stage"])

    @property
    def seq_len(self) -> int:
        return int(self.data["seq_len"])

    @property
    def num_packs(self) -> int:
        return int(self.data["packing"]["packs"])

    @property
    def tokenizer(self) -> Mapping[str, Any]:
        """`name`, `sha256`, `vocab_size`, `special_ids`, `pad_id`."""
        return dict(self.data["tokenizer"])

    @property
    def pads(self) -> tuple[int, ...]:
        """The ids of its placeholders, of pictures and, in a set with clips, of clips."""
        special = self.data["tokenizer"]["special_ids"]
        return tuple(special[name] for name in ("image_pad", "video_pad") if name in special)

    @property
    def resolution(self) -> Resolution:
        """How its images become patches."""
        return Resolution.of(self.data["resolution"])

    @property
    def source_weights(self) -> dict[str, float]:
        """What a loss token of a source weighs, of those where that is not 1."""
        return {name: source["weight"] for name, source in self.data["sources"].items() if "weight" in source}

    @property
    def order(self) -> Mapping[str, Any]:
        return dict(self.data["order"])

    @property
    def borders(self) -> tuple[int, ...]:
        """Where the windows of a curriculum begin and end, in packs; () where the set has none."""
        return tuple(self.data["order"].get("curriculum", {}).get("borders", ()))

    @property
    def shards(self) -> tuple[ShardInfo, ...]:
        return tuple(ShardInfo(**shard) for shard in self.data["shards"])

    def shard_path(self, shard: ShardInfo) -> Path:
        return self.path.parent / shard.path


def write_manifest(folder: Path, data: Mapping[str, Any]) -> Path:
    """Write `manifest.json` and its hash into `folder` (not yet published: the caller renames the folder)."""
    missing = [key for key in KEYS if key not in data and key not in OPTIONAL]
    if missing:
        raise ManifestError(f"a manifest needs the keys {', '.join(missing)}")
    # What a service said, or a variable in a name of the recipe's, is no part of a manifest either.
    content = masked_values({key: data[key] for key in KEYS if key in data})
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    path = folder / FILE_NAME
    path.write_text(text, encoding="utf-8")
    digest = hashlib.sha256(text.encode()).hexdigest()
    path.with_name(path.name + ".sha256").write_text(f"{digest}  {FILE_NAME}\n")
    return path
