"""Probabilistic programming with diffusion priors.

A trained diffusion model becomes an ordinary NumPyro distribution: put a learned prior on a field, or a learned
likelihood on a simulator, run BlackJAX on the model, get an ArviZ DataTree back and check its calibration.

The names below are loaded when they are first used, so that ``import bayesdiff`` stays light and training runs without
the packages that only inference and plotting need.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import (
        calibration,
        cosmology,
        diffusion,
        distributions,
        fields,
        networks,
        pretrained,
        reporting,
        sampling,
        training,
    )
    from .devices import initialise_devices
    from .diffusion import schedules
    from .diffusion.denoiser import GaussianDenoiser
    from .diffusion.densities import Elbo, Exact, ProbabilityFlow, Tempered
    from .diffusion.discrete_bound import DiscreteBound
    from .diffusion.gaussian_family import GaussianFamily, fit_gaussian_family
    from .diffusion.model import DiffusionModel, load_model
    from .diffusion.noise import StationaryNoise, WhiteNoise
    from .diffusion.score_density import ScoreGradient
    from .distributions import DiffusionPrior, FlowTransform, NoisyDiffusion, noncentred
    from .networks.wiener import WienerDenoiser
    from .pretrained import list_pretrained, load_pretrained
    from .sampling import (
        HMC,
        NUTS,
        AdjustedMCLMC,
        GibbsDiffusion,
        Grid,
        MarginalSurrogate,
        draw_fields,
        grid_contours,
        predictive_checks,
        sample,
    )

__version__ = "0.1.0"

__all__ = [
    "HMC",
    "NUTS",
    "AdjustedMCLMC",
    "DiffusionModel",
    "DiffusionPrior",
    "DiscreteBound",
    "Elbo",
    "Exact",
    "FlowTransform",
    "GaussianDenoiser",
    "GaussianFamily",
    "GibbsDiffusion",
    "Grid",
    "MarginalSurrogate",
    "NoisyDiffusion",
    "ProbabilityFlow",
    "ScoreGradient",
    "StationaryNoise",
    "Tempered",
    "WhiteNoise",
    "WienerDenoiser",
    "calibration",
    "cosmology",
    "diffusion",
    "distributions",
    "draw_fields",
    "fields",
    "fit_gaussian_family",
    "grid_contours",
    "initialise_devices",
    "list_pretrained",
    "load_model",
    "load_pretrained",
    "networks",
    "noncentred",
    "predictive_checks",
    "pretrained",
    "reporting",
    "sample",
    "sampling",
    "schedules",
    "training",
]

_MODULES = {
    "calibration": "bayesdiff.calibration",
    "cosmology": "bayesdiff.cosmology",
    "diffusion": "bayesdiff.diffusion",
    "distributions": "bayesdiff.distributions",
    "fields": "bayesdiff.fields",
    "networks": "bayesdiff.networks",
    "pretrained": "bayesdiff.pretrained",
    "reporting": "bayesdiff.reporting",
    "sampling": "bayesdiff.sampling",
    "schedules": "bayesdiff.diffusion.schedules",
    "training": "bayesdiff.training",
}
_MEMBERS = {
    "AdjustedMCLMC": "bayesdiff.sampling",
    "DiffusionModel": "bayesdiff.diffusion.model",
    "DiffusionPrior": "bayesdiff.distributions",
    "DiscreteBound": "bayesdiff.diffusion.discrete_bound",
    "Elbo": "bayesdiff.diffusion.densities",
    "Exact": "bayesdiff.diffusion.densities",
    "FlowTransform": "bayesdiff.distributions",
    "GaussianDenoiser": "bayesdiff.diffusion.denoiser",
    "GaussianFamily": "bayesdiff.diffusion.gaussian_family",
    "GibbsDiffusion": "bayesdiff.sampling",
    "Grid": "bayesdiff.sampling",
    "HMC": "bayesdiff.sampling",
    "MarginalSurrogate": "bayesdiff.sampling",
    "NUTS": "bayesdiff.sampling",
    "NoisyDiffusion": "bayesdiff.distributions",
    "ProbabilityFlow": "bayesdiff.diffusion.densities",
    "ScoreGradient": "bayesdiff.diffusion.score_density",
    "StationaryNoise": "bayesdiff.diffusion.noise",
    "Tempered": "bayesdiff.diffusion.densities",
    "WhiteNoise": "bayesdiff.diffusion.noise",
    "WienerDenoiser": "bayesdiff.networks.wiener",
    "draw_fields": "bayesdiff.sampling",
    "fit_gaussian_family": "bayesdiff.diffusion.gaussian_family",
    "grid_contours": "bayesdiff.sampling",
    "initialise_devices": "bayesdiff.devices",
    "list_pretrained": "bayesdiff.pretrained",
    "load_model": "bayesdiff.diffusion.model",
    "load_pretrained": "bayesdiff.pretrained",
    "noncentred": "bayesdiff.distributions",
    "predictive_checks": "bayesdiff.sampling",
    "sample": "bayesdiff.sampling",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        value = import_module(_MODULES[name])
    elif name in _MEMBERS:
        value = getattr(import_module(_MEMBERS[name]), name)
    else:
        raise AttributeError(f"module 'bayesdiff' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
