"""What a check returns: one thing it found, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["failure", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing that a check found, and what to do about it."""

    severity: Severity
    what: str
    advice: str
