"""Writes a small packed set of the present format, to be kept for all later versions to read or to refuse.

    python -m tests.kept.write          # once for every new format_version, and never again

An embedded image, a referenced one, padding, a full pack, a repeat, two shards.
"""

import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from mindvl_data.manifest import FORMAT_VERSION
from mindvl_data.shards import Pack, pack_digest
from tests.mindvl_data.packs import make_manifest, make_pack

HERE = Path(__file__).parent


def packs() -> list[Pack]:
    file = io.BytesIO()
    Image.fromarray(np.arange(56 * 56, dtype=np.uint8).reshape(56, 56)).save(file, "PNG")
    embedded = make_pack(0)
    shown = replace(embedded.images[0], data=file.getvalue(), sha256=hashlib.sha256(file.getvalue()).digest())
    referenced = replace(shown, data=None, uri="build:media/picture.png", offset=0, size=len(file.getvalue()))
    plain = [make_pack(2, lengths=[64], images=False), make_pack(3, lengths=[9, 8, 7], images=False)]
    return [replace(embedded, images=(shown,)), replace(make_pack(1), images=(referenced,)), *plain]


def main() -> None:
    build = HERE / f"format-{FORMAT_VERSION}"
    (build / "media").mkdir(parents=True)
    made = packs()
    (build / "media" / "picture.png").write_bytes(made[0].images[0].data or b"")
    make_manifest(build / "set", made, per_shard=3)
    digests = [pack_digest(pack).hex() for pack in made]
    (build / "digests.json").write_text(json.dumps(digests, indent=1) + "\n")


if __name__ == "__main__":
    main()
