"""The manifest: what a packed data set is, where it came from and how to check it.

`manifest.json` is written last and lies beside its shards, with `manifest.json.sha256` beside it: without a
manifest there is no data set. manifests/README.md lists every key.
"""

from mindvl_data.manifest.document import (
    FILE_NAME,
    FORMAT_VERSION,
    KEYS,
    READABLE_VERSIONS,
    Manifest,
    ManifestError,
    write_manifest,
)
from mindvl_data.manifest.files import beside, check_shard, open_shard, pack_at, pack_costs, packs_of, unknown_sources
from mindvl_data.manifest.reading import read_manifest

__all__ = [
    "FILE_NAME",
    "FORMAT_VERSION",
    "KEYS",
    "READABLE_VERSIONS",
    "Manifest",
    "ManifestError",
    "beside",
    "check_shard",
    "open_shard",
    "pack_at",
    "pack_costs",
    "packs_of",
    "read_manifest",
    "unknown_sources",
    "write_manifest",
]
