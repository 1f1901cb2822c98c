"""Run in the peer's folder: the images and captions of a folder as MDS shards, by MosaicML's own writer."""

import sys
from pathlib import Path

from PIL import Image

from tests.peers.streaming_alone import streaming

source, out = Path(sys.argv[1]), Path(sys.argv[2])
COLUMNS = {"image": "png", "caption": "str", "score": "float32", "number": "int", "extra": "json", "raw": "bytes"}
# One folder without a codec, one for each that is named: starting takes longer than writing.
for codec in (None, *sys.argv[4:]):
    folder = str(out / (codec or "plain"))
    with streaming.MDSWriter(out=folder, columns=COLUMNS, size_limit=sys.argv[3], compression=codec) as writer:
        for number, path in enumerate(sorted(source.glob("*.png"))):
            sample = {"score": number / 2, "number": number, "extra": {"a": [number]}, "raw": path.read_bytes()}
            writer.write(sample | {"image": Image.open(path), "caption": f"caption {number} ü"})
