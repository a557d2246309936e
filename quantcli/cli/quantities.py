"""Quantities as short text: sizes, decibels, times, ratios."""

from __future__ import annotations

import math


def size(count: float) -> str:
    """Return bytes with three digits or so."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


def decibels(ratio: float) -> str:
    """Return a ratio that is given in decibels."""
    return "exact" if ratio == math.inf else f"{ratio:.2f} dB"


def milliseconds(seconds: float) -> str:
    """Return a time with three digits."""
    return f"{seconds * 1000:.3g} ms"


def times(ratio: float) -> str:
    """Return a factor."""
    return f"{ratio:.2f}x"


def spread(low: float, high: float) -> str:
    """Return a range of factors; both ends may be the same."""
    return times(low) if f"{low:.1f}" == f"{high:.1f}" else f"{low:.1f}-{high:.1f}x"
