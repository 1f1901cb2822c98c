"""Writing: the packs of one shard are put together from the token stores and the sources' image bytes.

`shard` writes one shard, `assemble` puts its packs together (`layout` the tokens, `images` the pictures), `reads` reads
many byte ranges at once; `planning` finds out whether a set's images lie too scattered for that, and `dealing` sorts
them by shard beforehand.
"""

from mindvl_data.steps.write.dealing import DealTask, deal
from mindvl_data.steps.write.planning import plan_deals
from mindvl_data.steps.write.segments import Segments
from mindvl_data.steps.write.shard import shard_borders, write, written
from mindvl_data.steps.write.task import WriteTask

__all__ = ["DealTask", "Segments", "WriteTask", "deal", "plan_deals", "shard_borders", "write", "written"]
