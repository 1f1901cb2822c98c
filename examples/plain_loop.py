"""The packed stream in a PyTorch loop of your own.

    python examples/plain_loop.py build/quickstart/sft-2048 --steps 20

Of `mindvl_train` it takes the batch and a model; any model that takes a packed stream will do (docs/batch.md). The
stream's state is two values: saved with the weights, it goes on at the next pack, on any number of ranks.
"""

import argparse
from collections.abc import Iterator
from itertools import islice

import torch

from mindvl_data.stream import PackStream
from mindvl_train.data.batch import BatchLayout, collate
from mindvl_train.kernels.registry import KernelConfig, resolve
from mindvl_train.models.initialise import give_weights
from mindvl_train.models.vlm import VLM, VLMConfig, complete
from mindvl_train.presets import read_preset


def build(stream: PackStream, seed: int = 0) -> VLM:
    """A small model for the stream's tokens, with fresh weights; it is made without memory and given it with them."""
    config = VLMConfig(**complete(read_preset("tiny"), stream.manifest))
    with torch.device("meta"):
        model = VLM(config, resolve(KernelConfig(), "cpu"))
    give_weights(model, seed, torch.device("cpu"))
    return model


def layout_of(stream: PackStream) -> BatchLayout:
    """How the manifest's packs become batches for a model without windows and with plain positions."""
    manifest = stream.manifest
    return BatchLayout(
        patch=manifest.resolution.patch,
        merge=manifest.resolution.merge,
        image_pad=manifest.tokenizer["special_ids"]["image_pad"],
        video_pad=manifest.tokenizer["special_ids"].get("video_pad"),
        normalisation=manifest.resolution.normalisation,
    )


def train(model: VLM, stream: PackStream, learning_rate: float = 3e-3) -> Iterator[float]:
    """The loss of every step: mean cross-entropy of the pack's targets, in nats."""
    layout = layout_of(stream)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    for pack in stream:
        batch = collate([pack], layout)
        # The model sums over targets; over several ranks, divide by the sum of all their weights.
        loss = model(batch) / batch.total_weight
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield loss.item()


def main() -> None:
    """Trains and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest")
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    stream = PackStream(arguments.manifest, epochs=None)
    for step, loss in enumerate(islice(train(build(stream), stream), arguments.steps), start=1):
        print(f"step {step}: loss {loss:.4f}, {stream.state_dict()}")


if __name__ == "__main__":
    main()
