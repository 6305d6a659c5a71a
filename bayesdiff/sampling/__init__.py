"""Algorithms, the chain loop and DataTree results: ``sample`` runs any NumPyro model with continuous latent sites."""

from .gibbs import GibbsDiffusion
from .latent_fields import draw_fields
from .nuts import HMC, NUTS
from .sample import sample
from .surrogate import MarginalSurrogate

__all__ = [
    "HMC",
    "NUTS",
    "GibbsDiffusion",
    "MarginalSurrogate",
    "draw_fields",
    "sample",
]
