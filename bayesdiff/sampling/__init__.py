"""Algorithms, the chain loop and DataTree results: ``sample`` runs any NumPyro model with continuous latent sites."""

from __future__ import annotations

from .nuts import HMC, NUTS
from .sample import sample

__all__ = [
    "HMC",
    "NUTS",
    "sample",
]
