"""From a sample's turns to token ids and a loss mask.

    parts, as columns ── forms ──► what is alike among the samples, once ── render ──► pieces between special tokens
          ── encode ──► each distinct text once, by `fastokens` or `tokenizers` ──► ids, loss

Control tokens that stand in a sample's text are text: the encoder knows no added token, special or not. An image is
one placeholder between vision-start and vision-end here; a later step expands it.
"""

from mindvl_data.tokenise.encode import Counts, Encoded, counts, encode, stretches
from mindvl_data.tokenise.fast import CHARACTERS_TO_LOAD, OtherIdsError
from mindvl_data.tokenise.jinja import JinjaTemplate
from mindvl_data.tokenise.parts import PartColumns, of_column, of_samples
from mindvl_data.tokenise.render import RENDERS, TEMPLATES, ChatTemplate, Refused
from mindvl_data.tokenise.templates import TOKENIZER, TemplateError, load_template
from mindvl_data.tokenise.tokeniser import Tokeniser, TokeniserError, load_tokeniser

__all__ = [
    "CHARACTERS_TO_LOAD",
    "RENDERS",
    "TEMPLATES",
    "TOKENIZER",
    "ChatTemplate",
    "Counts",
    "Encoded",
    "JinjaTemplate",
    "OtherIdsError",
    "PartColumns",
    "Refused",
    "TemplateError",
    "Tokeniser",
    "TokeniserError",
    "counts",
    "encode",
    "load_template",
    "load_tokeniser",
    "of_column",
    "of_samples",
    "stretches",
]
