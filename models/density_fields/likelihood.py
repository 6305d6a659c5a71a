"""The recommended likelihood of a dark-matter field: the bound with the twin as reference, where it varies most.

Between parameters one posterior width apart the bound's integrand scatters with its noise almost only at noise levels
between 0.01 and 3 standard deviations of a field. The prior's card says by how much at each level
(``bound_importance``, measured on training fields when the prior is published), and the strata follow it.
"""

from __future__ import annotations

import jax.numpy as jnp

import bayesdiff as bd
from bayesdiff.diffusion.importance import noise_level_importance
from bayesdiff.windows import LabelledFields
from models.density_fields.data import PARAMETER_BOUNDS

WIDTHS = (0.03, 0.02)
"""About a posterior width of Omega_m and sigma_8 from one field."""


def recommended_bound(prior: bd.DiffusionModel, num_times: int = 64, num_noise: int = 1) -> bd.Elbo:
    """The bound whose strata are those of the prior's card; two network evaluations each, and per noise draw.

    Differences over a posterior width scatter over noise seeds by 2.2 / sqrt(num_times num_noise) nat or so.

    Raises:
        ValueError: the card has no ``bound_importance``.
    """
    weights = prior.card.entries.get("bound_importance")
    if weights is None:
        raise ValueError(f"the card of the prior must have bound_importance; it has {', '.join(prior.card.entries)}")
    return bd.Elbo(num_times=num_times, num_noise=num_noise, importance=weights)


def measure_importance(prior: bd.DiffusionModel, labelled: LabelledFields, num: int = 12) -> list[float]:
    """Weights for ``bound_importance``, from ``num`` training fields spread over ``labelled``."""
    some = jnp.linspace(0, len(labelled.fields) - 1, num).astype(int)
    contexts = labelled.contexts[some]
    middle = jnp.array([0.5 * (low + high) for low, high in PARAMETER_BOUNDS.values()])
    others = contexts - jnp.array(WIDTHS) * jnp.sign(contexts - middle)
    return list(noise_level_importance(prior, labelled.fields[some], contexts, others))
