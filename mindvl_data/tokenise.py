"""From a sample's turns to token ids and a loss mask.

    parts ── a render ──► stretches (text or special token, with or without loss)
          ── pieces between two special tokens, each distinct one encoded once, all of a batch in one call
          ──► ids, loss

Control tokens that stand in a sample's text are text: the encoder knows no added token, special or not. An image
is one placeholder between vision-start and vision-end here; later steps expand it.
"""

from __future__ import annotations

import hashlib
import json
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from itertools import chain, groupby, repeat
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from mindvl_data.schema import Part
