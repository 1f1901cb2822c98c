"""Packing: samples into packs of one capacity, full, within every limit and alike in both costs.

`plan` makes the packs, `plan_windows` makes them of a stream too large to read at random, `order_packs` says in
which order they are written. A packing depends on lengths alone, so lengths are counted and the counts packed
(one_limit); samples of equal length then change places for their patches (swap), and what is over a second
limit is repacked sample by sample (two_limits).
"""

from mindvl_data.packing.apart import again
from mindvl_data.packing.draw import words
from mindvl_data.packing.limits import Limits, minimum_packs
from mindvl_data.packing.order import edges_of, order_packs, step_balance
from mindvl_data.packing.packs import PackError, Packs, index_type
from mindvl_data.packing.planning import plan
from mindvl_data.packing.windows import plan_windows

__all__ = [
    "Limits",
    "PackError",
    "Packs",
    "again",
    "edges_of",
    "index_type",
    "minimum_packs",
    "order_packs",
    "plan",
    "plan_windows",
    "step_balance",
    "words",
]
