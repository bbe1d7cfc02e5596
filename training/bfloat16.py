"""Whether this processor multiplies in bfloat16 itself: where it does not, torch takes longer than in float32."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # of x86 and, the last, of ARM
CPUINFO = Path("/proc/cpuinfo")


@cache
def has_bfloat16() -> bool:
    """Of the processor this runs on; False where it does not say."""
    return CPUINFO.exists() and says_bfloat16(CPUINFO.read_text())


def says_bfloat16(cpuinfo: str) -> bool:
    """Whether /proc/cpuinfo of x86 or ARM names an instruction that multiplies in it."""
    return any(
        not FLAGS.isdisjoint(line.split()) for line in re.findall(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, re.M)
    )
