"""Counting: kept samples become exact tokens (counting), and clips the frames that each stage looks at (clips)."""

from mindvl_data.steps.count.counting import CountTask, FramesTask, count, text_bytes

__all__ = ["CountTask", "FramesTask", "count", "text_bytes"]
