"""A shard written, and the note that says it was."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mindvl_data.runtime import mirror as mirrors
from mindvl_data.runtime import seals
from mindvl_data.shards import ShardInfo, borders, file_sha256, pack_bytes, schema, write_batches
from mindvl_data.steps.write.assemble import batches
from mindvl_data.steps.write.task import WriteTask


def write(task: WriteTask) -> ShardInfo:
    """Write one shard, and then `note` with what the manifest says of it: a resumed build reads that.

    Again it writes nothing: a worker may be lost once all is done, and the dealt images are gone then.

    Raises MediaError when a source changed since its scan.
    """
    if there := written(task):
        return there
    info = write_batches(task.path, batches(task), schema(task.seq_len, task.video, task.weighted))
    mirrors.sent_away(task.path)
    with seals.sealed(task.note) as partial:
        partial.write_text(json.dumps({**info.__dict__, "pack_digests": [d.hex() for d in info.pack_digests]}))
    here = [path for path in task.dealt.paths if "://" not in path] if task.dealt else []
    if task.dealt and here and all(map(seals.is_whole, task.dealt.notes)):
        for path in here:
            Path(path).unlink(missing_ok=True)
    return info


def written(task: WriteTask) -> ShardInfo | None:
    """What an earlier, interrupted build finished of this shard."""
    path = task.path
    if not seals.is_whole(task.note) or not mirrors.is_there(path):
        return None
    fields = json.loads(seals.checked(task.note).read_text())
    digests = tuple(bytes.fromhex(digest) for digest in fields.pop("pack_digests"))
    info = ShardInfo(**fields, pack_digests=digests)
    mirror = mirrors.of(path)
    if mirror is not None:
        return info if mirror.size(mirror.name(path)) == info.bytes else None
    return info if file_sha256(path) == info.sha256 else None


def shard_borders(image_bytes: NDArray[np.int64], seq_len: int, shard_bytes: int) -> list[tuple[int, int]]:
    """(first pack, end) of every shard, closed in pack order before it would pass `shard_bytes`."""
    return borders(pack_bytes(seq_len, image_bytes), shard_bytes)
