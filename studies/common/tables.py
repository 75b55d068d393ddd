"""How tables write numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def percent(estimate: Mapping[str, Any]) -> str:
    """An accuracy or a difference with its interval, in points."""
    return f"{100 * estimate['mean']:.1f} [{100 * estimate['ci_low']:.1f}, {100 * estimate['ci_high']:.1f}]"
