"""What a single observation gives away: the fields behind it, and whether it looks like data of its model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import xarray as xr

import bayesdiff as bd
from bayesdiff.reporting.model_checks import check_predictive


class Looked(NamedTuple):
    """A posterior looked at.

    Attributes:
        fields: draws of the latent field, (draw, C, H, W).
        findings: what the posterior predictive checks found, a sentence each; none if all is well.
    """

    fields: np.ndarray
    findings: tuple[str, ...]


def look(
    key: jax.Array,
    model: Callable[..., Any],
    y: np.ndarray,
    draws: Mapping[str, np.ndarray],
    field: str,
    num_fields: int,
    num_replicates: int,
) -> Looked:
    """Draw the fields of an observation, and check it by what it says itself: the truth is not asked.

    Args:
        key: random key.
        model: NumPyro model of ``y``.
        y: the observation.
        draws: of every latent site, (draw,).
        field: name of the latent field.
        num_fields: how many are drawn.
        num_replicates: data sets replicated from the posterior; 0 checks the separated noise alone.
    """
    posterior = xr.Dataset({name: (("chain", "draw"), np.asarray(x)[None]) for name, x in draws.items()})
    data = xr.DataTree.from_dict({"posterior": posterior})
    key_fields, key_checks = jax.random.split(key)
    data = bd.draw_fields(key_fields, model, y, data, num_draws=num_fields, progress=False)
    data = bd.predictive_checks(key_checks, model, y, data, num_replicates=num_replicates, progress=False)
    findings = tuple(finding.what for finding in check_predictive(data))
    return Looked(np.asarray(data["fields"][field].values)[0], findings)
