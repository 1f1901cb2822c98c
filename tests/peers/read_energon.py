"""Run in the peer's folder: an exported Energon folder, read once by its own loader, as JSON lines."""

import hashlib
import json
import sys

from megatron.energon import (  # type: ignore[import-not-found]
    Cooker,
    DefaultTaskEncoder,
    WorkerConfig,
    get_loader,
    get_train_dataset,
    stateless,
)


@stateless  # type: ignore[untyped-decorator]
def cook(sample: dict) -> dict:
    return dict(sample)


class Encoder(DefaultTaskEncoder):  # type: ignore[misc]
    """Samples as they come, one a batch, with nothing decoded."""

    cookers = [Cooker(cook)]  # noqa: RUF012
    decoder = None

    def encode_sample(self, sample: dict) -> dict:
        return sample

    def batch(self, samples: list[dict]) -> list[dict]:
        return samples


if __name__ == "__main__":
    config = WorkerConfig(rank=0, world_size=1, num_workers=0)
    found = get_train_dataset(
        sys.argv[1],
        worker_config=config,
        batch_size=1,
        shuffle_buffer_size=None,
        max_samples_per_sequence=None,
        repeat=False,
        shuffle_over_epochs_multiplier=None,
        parallel_shard_iters=1,
        task_encoder=Encoder(),
    )
    for batch in get_loader(found):
        for sample in batch:
            files = {name: value for name, value in sample.items() if not name.startswith("__")}
            meta = json.loads(files.pop("json"))
            hashes = {name: hashlib.sha256(value).hexdigest() for name, value in sorted(files.items())}
            sys.stdout.write(json.dumps({"key": sample["__key__"], "meta": meta, "sha256": hashes}) + "\n")
