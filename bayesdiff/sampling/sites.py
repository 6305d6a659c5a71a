"""What a model's trace says: which sites are latent, which are refused, and what their dimensions are called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpyro.distributions as dist

Sites = Mapping[str, Mapping[str, Any]]
FIELD_DIMS = ("channel", "height", "width")


def latent_sites(sites: Sites) -> tuple[str, ...]:
    """Names of the sample sites that are not observed."""
    return tuple(name for name, site in sites.items() if site["type"] == "sample" and not site["is_observed"])


def observed_sites(sites: Sites) -> tuple[str, ...]:
    """Names of the observed sample sites, ``numpyro.factor`` included."""
    return tuple(name for name, site in sites.items() if site["type"] == "sample" and site["is_observed"])


def data_sites(sites: Sites) -> tuple[str, ...]:
    """Names of the observed sites without ``numpyro.factor``, which has no value."""
    return tuple(name for name in observed_sites(sites) if not isinstance(_innermost(sites[name]["fn"]), dist.Unit))


def refuse_non_finite(observed: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError, saying how many and where the first is, if an observed value is NaN or infinite."""
    for name, value in observed.items():
        bad = np.argwhere(~np.isfinite(value))
        if len(bad):
            first = tuple(int(i) for i in bad[0])
            raise ValueError(
                f"observed site '{name}' must be finite, got {len(bad)} NaN or infinite of {value.size} values, "
                f"the first at index {first}"
            )


def refuse_unsuitable(sites: Sites) -> None:
    """Raise ValueError, naming the site, if gradient-based chains cannot sample a model with these sites."""
    latent = latent_sites(sites)
    discrete = [name for name in latent if sites[name]["fn"].support.is_discrete]
    if discrete:
        raise ValueError(
            f"latent site '{discrete[0]}' is discrete ({type(_innermost(sites[discrete[0]]['fn'])).__name__}): only "
            "continuous latent sites can be sampled; sum it out of the model"
        )
    if not observed_sites(sites):
        raise ValueError(
            "observed site missing: no sample site of the model has a value "
            f"(latent sites: {', '.join(latent) or 'none'}); pass the data, e.g. sample(key, model, y)"
        )
    if not latent:
        raise ValueError("the model has no latent site: there is nothing to sample")


def unconstrained_shapes(sites: Sites) -> dict[str, tuple[int, ...]]:
    """Shape of each latent site in unconstrained space."""
    return {name: sites[name]["unconstrained_shape"] for name in latent_sites(sites)}


def site_dims(sites: Sites) -> dict[str, tuple[str, ...]]:
    """Names of each site's dimensions: plates by name, fields (channel, height, width), else ``<site>_dim_<i>``.

    What NumPyro's ``TransformReparam`` made of a site ``x``, the deterministic ``x``, has the dimensions of ``x_base``.
    """
    return {name: _dims(sites, site) for name, site in sites.items() if site["type"] in ("sample", "deterministic")}


def _dims(sites: Sites, site: Mapping[str, Any]) -> tuple[str, ...]:
    shape = np.shape(site["value"])
    names = [f"{site['name']}_dim_{i}" for i in range(len(shape))]
    base = sites.get(f"{site['name']}_base")
    if site["type"] == "deterministic" and base is not None and base["type"] == "sample":
        site = base if np.shape(base["value"]) == shape else site
    if site["type"] == "sample":
        event_dim = site["fn"].event_dim
        for frame in site["cond_indep_stack"]:
            axis = len(shape) - event_dim + frame.dim
            if 0 <= axis < len(shape) and shape[axis] == frame.size:
                names[axis] = frame.name
        if event_dim == len(FIELD_DIMS):
            names[-event_dim:] = FIELD_DIMS
    return tuple(names)


def describe(sites: Sites) -> str:
    """One line per sample site: name, distribution, shape and whether it is observed; part of the model's hash."""
    return "\n".join(
        f"{name} {type(_innermost(site['fn'])).__name__} {np.shape(site['value'])} {site['is_observed']}"
        for name, site in sites.items()
        if site["type"] == "sample"
    )


def _innermost(distribution: Any) -> Any:
    while isinstance(distribution, dist.ExpandedDistribution | dist.MaskedDistribution | dist.Independent):
        distribution = distribution.base_dist
    return distribution
