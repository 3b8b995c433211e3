"""The port Clock: the clocks of this machine."""

from __future__ import annotations

import time


class SystemClock:
    """See the module's docstring."""

    def monotonic(self) -> float:
        """See ports.Clock. It goes on while the machine is suspended: what was fresh before is old after."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def wall_ms(self) -> int:
        """See ports.Clock."""
        return time.time_ns() // 1_000_000
