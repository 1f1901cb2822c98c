"""Trains `tokenizer.json` on the texts of `data/`; run it, without arguments, after changing them.

A byte-level BPE with Qwen's normaliser, pre-tokenizer and special tokens, small enough to be committed. The
same texts give the same file, byte for byte.
"""

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

HERE = Path(__file__).parent
# The published pre-tokenizer of Qwen2, and the control tokens of Qwen2-VL in the order of their ids.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CONTROL = (
    *("endoftext", "im_start", "im_end"),
    *("object_ref_start", "object_ref_end", "box_start", "box_end", "quad_start", "quad_end"),
    *("vision_start", "vision_end", "vision_pad", "image_pad", "video_pad"),
)
VOCABULARY = 4096


def texts(data: Path) -> Iterator[str]:
    """Captions, questions and answers, documents and conversations."""
    for path in sorted(data.glob("captions-*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                stream = tar.extractfile(member) if member.name.endswith(".txt") else None
                if stream is not None:
                    yield stream.read().decode()
    for turns in pq.read_table(data / "vqa.parquet")["texts"].to_pylist():
        for turn in turns:
            yield from (turn["user"], turn["assistant"])
    for document in json.loads((data / "documents/documents.json").read_text("utf-8")):
        yield from (turn["value"].replace("<image>", "") for turn in document["conversations"])
    for line in (data / "text.jsonl").read_text("utf-8").splitlines():
        yield from (message["content"] for message in json.loads(line)["messages"])


def train(corpus: Iterator[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    size = VOCABULARY - len(CONTROL)
    tokenizer.train_from_iterator(
        corpus, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer.add_special_tokens(
        [AddedToken(f"<|{name}|>", special=True, normalized=False) for name in CONTROL]
    )
    return tokenizer


if __name__ == "__main__":
    train(texts(HERE / "data")).save(str(HERE / "tokenizer.json"))
