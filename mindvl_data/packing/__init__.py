"""Packing: samples into packs of one capacity, full, within every limit and alike in both costs.

    lengths ─ count ─► patterns ─► samples handed out ─► swaps ─► within patches ─► order

`plan` makes the packs, `plan_windows` makes them of a stream too large to read at random (planning), `order_packs`
says in which order they are written (order). A packing depends on lengths alone, so lengths are counted and the counts
packed into patterns (one_dimensional, by completion and best_fit). Samples of equal length then change places (swaps),
so that packs are alike in patches and repeats of a sample lie in different packs; what is over a limit of patches is
repacked sample by sample in between (two_dimensional).
"""

from mindvl_data.packing.order import edges_of, order_packs, step_balance
from mindvl_data.packing.packs import Limits, PackError, Packs, index_type, minimum_packs
from mindvl_data.packing.planning import plan, plan_windows
from mindvl_data.packing.swaps import duplicates_in_pack

__all__ = [
    "Limits",
    "PackError",
    "Packs",
    "duplicates_in_pack",
    "edges_of",
    "index_type",
    "minimum_packs",
    "order_packs",
    "plan",
    "plan_windows",
    "step_balance",
]
