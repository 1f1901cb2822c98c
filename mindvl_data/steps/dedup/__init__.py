"""Duplicates, exact and near, within the data and with evaluation sets. Everything in here is arrays over samples.

exact.py       which samples have equal keys
near.py        pairs in buckets, compared: what both near searches share
pictures.py    perceptual hashes within a Hamming distance
texts.py       MinHash signatures of at least a Jaccard similarity
groups.py      pairs → groups, and the one of each that is kept
"""

from mindvl_data.steps.dedup.exact import image_keys, same, same_as
from mindvl_data.steps.dedup.groups import kept_of, ranks
from mindvl_data.steps.dedup.near import Pairs
from mindvl_data.steps.dedup.pictures import Pictures, near_pictures
from mindvl_data.steps.dedup.texts import near_texts

__all__ = ["Pairs", "Pictures", "image_keys", "kept_of", "near_pictures", "near_texts", "ranks", "same", "same_as"]
