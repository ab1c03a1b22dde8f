"""Which tables are merged, and when: policies, and the coordinator that carries them out.

policy.py      what every policy is and offers
lazy.py        LazyLeveled, the default
leveled.py     Leveled
scheduler.py   the one thread that asks them
"""

from __future__ import annotations

from .lazy import LazyLeveled
from .leveled import Leveled
from .policy import Policy

__all__ = ["LazyLeveled", "Leveled", "Policy"]
