"""Mixing: asked shares and a budget become an ordered draw of (sample, repeat).

`ask` resolves groups, epochs, temperature and allocation to one share a source (shares) and the budget to an amount of
whatever the shares are shares of (asked); `draw` orders and cuts it (draw).
"""

from mindvl_data.steps.mix.asked import Asked, ask, check_repeats
from mindvl_data.steps.mix.draw import Draw, draw, pass_order
from mindvl_data.steps.mix.pools import MixError, Pool, Stock

__all__ = ["Asked", "Draw", "MixError", "Pool", "Stock", "ask", "check_repeats", "draw", "pass_order"]
