"""Which tables are merged, and when: policies, and the coordinator that carries them out.

policy.py      what every policy is and offers
lazy.py        LazyLeveled, the default
leveled.py     Leveled
tiered.py      SizeTiered
window.py      TimeWindow
fifo.py        Fifo
scheduler.py   the one thread that asks them
"""

from __future__ import annotations

from .fifo import Fifo
from .lazy import LazyLeveled
from .leveled import Leveled
from .policy import Policy
from .tiered import SizeTiered
from .window import TimeWindow

__all__ = ["Fifo", "LazyLeveled", "Leveled", "Policy", "SizeTiered", "TimeWindow"]
