"""The packed stream in the Trainer of transformers, on its own Qwen2.5-VL.

    pip install accelerate transformers
    python examples/hugging_face_trainer.py build/quickstart/sft-2048 --steps 20

`qwen_inputs` is all that is needed: packs → the arguments of `Qwen2_5_VLForConditionalGeneration`. Its attention
finds the segments by the positions along the text, which begin at 0 in each; a cache would make it see one sequence.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Trainer, TrainingArguments

from mindvl_data.shards import Pack
from mindvl_data.stream import PackStream
from mindvl_train.data.batch import BatchLayout, collate
from mindvl_train.data.positions import text_positions

IGNORED = -100


def qwen_inputs(packs: Sequence[Pack], layout: BatchLayout) -> dict[str, Any]:
    """Packs as one row of T tokens.

    Args:
        packs: one or more.
        layout: the model computes windows and weights every target alike; all else of it is read.

    Returns:
        input_ids, labels, mm_token_type_ids [1, T]; position_ids [4, 1, T]: along the text, then time, height and
        width; where there are images pixel_values [N, 1176] and image_grid_thw [images, 3], where there are videos
        pixel_values_videos and video_grid_thw; and no cache.
    """
    batch = collate(packs, replace(layout, window=None, position_axes=3))
    labels = torch.full_like(batch.ids, IGNORED)
    # Unshifted, as transformers wants them: it shifts by itself.
    labels[batch.predictors + 1] = batch.targets
    along_text = torch.from_numpy(text_positions(batch.segments))
    inputs: dict[str, Any] = {
        "input_ids": batch.ids[None],
        "labels": labels[None],
        "mm_token_type_ids": _kinds(batch.ids, layout)[None],
        "position_ids": torch.cat([along_text[None], batch.positions])[:, None],
        "use_cache": False,
    }
    images = [image for pack in packs for image in pack.images]
    patches = torch.split(batch.patches, [image.num_patches for image in images]) if images else ()
    for names, video in (
        (("pixel_values", "image_grid_thw"), False),
        (("pixel_values_videos", "video_grid_thw"), True),
    ):
        own = [(each, image.grid) for each, image in zip(patches, images, strict=True) if image.is_video == video]
        if own:
            pixels, grids = zip(*own, strict=True)
            inputs |= dict(zip(names, (torch.cat(pixels), torch.tensor(grids)), strict=True))
    return inputs


def _kinds(ids: torch.Tensor, layout: BatchLayout) -> torch.Tensor:
    """[T] int32: 1 for an image's placeholders, 2 for a video's."""
    kinds = (ids == layout.image_pad).int()
    return kinds if layout.video_pad is None else kinds + 2 * (ids == layout.video_pad).int()


class Packs(IterableDataset[Pack]):
    """A stream as the Trainer's data set."""

    def __init__(self, stream: PackStream) -> None:
        self.stream = stream

    def __iter__(self):  # noqa: ANN204
        return iter(self.stream)


class PackTrainer(Trainer):
    """Takes the stream as it is: packs were dealt to ranks, in an order fixed when they were built."""

    def get_train_dataloader(self) -> DataLoader[Pack]:
        """Not wrapped by accelerate, which would deal them out a second time."""
        return DataLoader(self.train_dataset, self.args.per_device_train_batch_size, collate_fn=self.data_collator)


def build(special_ids: dict[str, int], vocab_size: int) -> Qwen2_5_VLForConditionalGeneration:
    """A small Qwen2.5-VL with the manifest's special tokens."""
    torch.manual_seed(0)
    text = {
        "vocab_size": vocab_size,
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 3, 3]},
    }
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "out_hidden_size": 64,
        "fullatt_block_indexes": [1],
    }
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=special_ids["image_pad"],
        video_token_id=special_ids.get("video_pad", -1),
        vision_start_token_id=special_ids["vision_start"],
        vision_end_token_id=special_ids["vision_end"],
    )
    return Qwen2_5_VLForConditionalGeneration(config)


def train(manifest: str, steps: int, learning_rate: float = 3e-3) -> list[float]:
    """The loss of every step."""
    stream = PackStream(manifest, epochs=None)
    tokenizer, rule = stream.manifest.tokenizer, stream.manifest.resolution
    special_ids = tokenizer["special_ids"]
    layout = BatchLayout(
        patch=rule.patch,
        merge=rule.merge,
        image_pad=special_ids["image_pad"],
        video_pad=special_ids.get("video_pad"),
        normalisation=rule.normalisation,
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = PackTrainer(
            model=build(special_ids, tokenizer["vocab_size"]),
            args=TrainingArguments(
                output_dir=folder,
                max_steps=steps,
                per_device_train_batch_size=1,
                learning_rate=learning_rate,
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                remove_unused_columns=False,
                use_cpu=not torch.accelerator.is_available(),
            ),
            train_dataset=Packs(stream),
            data_collator=partial(qwen_inputs, layout=layout),
        )
        trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def main() -> None:
    """Trains; the Trainer prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest")
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    train(arguments.manifest, arguments.steps)


if __name__ == "__main__":
    main()
