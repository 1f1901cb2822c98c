"""Trains `tokenizer.json` on the texts of `data/`; run it, without arguments, after changing them.

A byte-level BPE with Qwen's normaliser, pre-tokenizer and special tokens, small enough to be committed. The
same texts give the same file, byte for byte.
"""

import json
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from mindvl_data.qwen import CONTROL, WORDS

HERE = Path(__file__).parent
VOCABULARY = 4096


def texts(data: Path) -> Iterator[str]:
    """Captions, then the turns of questions and answers, documents and conversations."""
    for path in sorted(data.glob("captions-*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                stream = tar.extractfile(member) if member.name.endswith(".txt") else None
                if stream is not None:
                    yield stream.read().decode()
    for sample in pq.read_table(data / "vqa.parquet")["texts"].to_pylist():
        yield from turns((role, turn[role]) for turn in sample for role in ("user", "assistant"))
    for document in json.loads((data / "documents/documents.json").read_text("utf-8")):
        roles = {"human": "user", "gpt": "assistant"}
        yield from turns((roles[turn["from"]], turn["value"]) for turn in document["conversations"])
    for line in (data / "text.jsonl").read_text("utf-8").splitlines():
        yield from turns((turn["role"], turn["content"]) for turn in json.loads(line)["messages"])


def turns(conversation: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Turns as they stand between the template's special tokens."""
    yield "system\nYou are a helpful assistant."
    for role, text in conversation:
        yield f"{role}\n{text.replace('<image>', '').strip()}"


def train(corpus: Iterator[str], vocabulary: int = VOCABULARY) -> Tokenizer:
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
    size = vocabulary - len(CONTROL)
    tokenizer.train_from_iterator(
        corpus, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer.add_special_tokens([AddedToken(f"<|{name}|>", special=True, normalized=False) for name in CONTROL])
    return tokenizer


if __name__ == "__main__":
    train(texts(HERE / "data")).save(str(HERE / "tokenizer.json"))
