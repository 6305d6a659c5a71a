"""Algorithms, the chain loop and DataTree results: ``sample`` runs any NumPyro model with continuous latent sites."""

from .gibbs import GibbsDiffusion
from .grid import Grid
from .grid_summary import grid_contours
from .latent_fields import draw_fields
from .microcanonical import AdjustedMCLMC
from .nuts import HMC, NUTS
from .predictive import predictive_checks
from .sample import sample
from .surrogate import MarginalSurrogate

__all__ = [
    "HMC",
    "NUTS",
    "AdjustedMCLMC",
    "GibbsDiffusion",
    "Grid",
    "MarginalSurrogate",
    "draw_fields",
    "grid_contours",
    "predictive_checks",
    "sample",
]
