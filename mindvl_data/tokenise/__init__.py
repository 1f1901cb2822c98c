"""From a sample's turns to token ids and a loss mask.

    parts ── render ──► stretches: text or a special token, with or without loss
          ── encode ──► pieces between two special tokens, each distinct one once, a batch in few calls ──► ids, loss

Control tokens that stand in a sample's text are text: the encoder knows no added token, special or not. An image is
one placeholder between vision-start and vision-end here; a later step expands it.
"""

from mindvl_data.tokenise.encode import Counts, Encoded, counts, encode
from mindvl_data.tokenise.render import RENDERS, TEMPLATES, ChatTemplate
from mindvl_data.tokenise.tokeniser import Tokeniser, TokeniserError, load_tokeniser

__all__ = [
    "RENDERS",
    "TEMPLATES",
    "ChatTemplate",
    "Counts",
    "Encoded",
    "Tokeniser",
    "TokeniserError",
    "counts",
    "encode",
    "load_tokeniser",
]
