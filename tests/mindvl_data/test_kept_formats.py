"""What earlier versions wrote: read to the bit, or refused with what to do. Made by tests/kept/write.py."""

import json
from pathlib import Path

import pytest

from mindvl_data import vision
from mindvl_data.manifest import FORMAT_VERSION, READABLE_VERSIONS, ManifestError, read_manifest
from mindvl_data.manifest.verify import verify
from mindvl_data.shards import pack_digest
from mindvl_data.stream import PackStream

KEPT = sorted((Path(__file__).parent.parent / "kept").glob("format-*"))


def test_the_present_format_is_kept() -> None:
    assert f"format-{FORMAT_VERSION}" in [folder.name for folder in KEPT]


@pytest.mark.parametrize("folder", KEPT, ids=lambda folder: folder.name)
def test_a_kept_set_is_read_to_the_bit_or_refused_with_what_to_do(folder: Path) -> None:
    if folder.name in [f"format-{version}" for version in READABLE_VERSIONS]:
        manifest = read_manifest(folder / "set")
        assert [texts for _, texts in verify(manifest) if texts] == []
        packs = list(PackStream(manifest))
        assert [pack_digest(pack).hex() for pack in packs] == json.loads((folder / "digests.json").read_text())
        images = [image.data or b"" for pack in packs for image in pack.images]
        assert [vision.decode(image, 4, 4).shape for image in images] == [(16, 1176)] * 2
    else:
        with pytest.raises(ManifestError, match="build the data set again, or use the version that wrote it"):
            read_manifest(folder / "set")
