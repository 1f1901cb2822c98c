"""Run in the peer's folder: an exported MDS folder, read by MosaicML's own data set, as JSON lines."""

import hashlib
import json
import sys

from tests.peers.streaming_alone import streaming

found = streaming.LocalDataset(sys.argv[1])
for number in range(len(found)):
    sample = found[number]
    ends = [sum(sample["image_bytes"][: i + 1]) for i in range(len(sample["image_bytes"]))]
    images = [sample["images"][end - size : end] for end, size in zip(ends, sample["image_bytes"], strict=True)]
    line = {name: value for name, value in sample.items() if name not in ("images", "tokens", "loss_mask")}
    line["sha256"] = [hashlib.sha256(image).hexdigest() for image in images]
    if "tokens" in sample:
        line["tokens"] = sample["tokens"].tolist()
        line["loss_mask"] = sample["loss_mask"].tolist()
    sys.stdout.write(json.dumps(line) + "\n")
