"""Run in the peer's folder: the images and captions of a folder as MDS shards, by MosaicML's own writer."""

import sys
import types
from importlib.machinery import ModuleSpec
from pathlib import Path

from PIL import Image

# The package imports torchvision for data sets that are not used here; torchvision would bring a torch of its own.
for name in ("torchvision", "torchvision.datasets", "torchvision.transforms", "torchvision.transforms.functional"):
    module = types.ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    sys.modules[name] = module
sys.modules["torchvision.datasets"].VisionDataset = object  # type: ignore[attr-defined]
sys.modules["torchvision.transforms.functional"].to_tensor = None  # type: ignore[attr-defined]

from streaming import MDSWriter  # type: ignore[import-not-found]  # noqa: E402

source, out = Path(sys.argv[1]), Path(sys.argv[2])
COLUMNS = {"image": "png", "caption": "str", "score": "float32", "number": "int", "extra": "json", "raw": "bytes"}
# One folder without a codec, one for each that is named: starting takes longer than writing.
for codec in (None, *sys.argv[4:]):
    folder = str(out / (codec or "plain"))
    with MDSWriter(out=folder, columns=COLUMNS, size_limit=sys.argv[3], compression=codec) as writer:
        for number, path in enumerate(sorted(source.glob("*.png"))):
            sample = {"score": number / 2, "number": number, "extra": {"a": [number]}, "raw": path.read_bytes()}
            writer.write(sample | {"image": Image.open(path), "caption": f"caption {number} ü"})
