"""What a single observation gives away: the fields behind it, and whether it looks like data of its model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import xarray as xr

from bayesdiff.calibration import Sbc, simulations
from bayesdiff.reporting.model_checks import check_predictive
from bayesdiff.sampling.latent_fields import fields_of
from bayesdiff.sampling.predictive import checks_of
from bayesdiff.sampling.target import Target, build_target


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
    target: Target,
    y: np.ndarray,
    draws: Mapping[str, np.ndarray],
    field: str,
    num_fields: int,
    num_replicates: int,
) -> Looked:
    """Draw the fields of an observation, and check it by what it says itself: the truth is not asked.

    Args:
        key: random key.
        target: of the model, at any data: what is compiled serves all.
        y: the observation.
        draws: of every latent site, (draw,).
        field: name of the latent field.
        num_fields: how many are drawn.
        num_replicates: data sets replicated from the posterior; 0 checks the separated noise alone.
    """
    posterior = xr.Dataset({name: (("chain", "draw"), np.asarray(x)[None]) for name, x in draws.items()})
    data = xr.DataTree.from_dict({"posterior": posterior})
    key_target, key_fields, key_checks = jax.random.split(key, 3)
    target = target.with_data(key_target, y)
    data = fields_of(key_fields, target, data, num_draws=num_fields, progress=False)
    data = checks_of(key_checks, target, data, num_replicates=num_replicates, progress=False)
    findings = tuple(finding.what for finding in check_predictive(data))
    return Looked(np.asarray(data["fields"][field].values)[0], findings)


def look_at_first(
    key: jax.Array,
    model: Callable[..., Any],
    study: Sbc,
    simulator: Callable[..., Any],
    field: str,
    num: int,
    num_fields: int,
    num_replicates: int,
) -> Iterator[Looked]:
    """Look at the first ``num`` posteriors of a study with key ``key``, whose only observed site is ``y``.

    Args:
        key: that of the study.
        model: that of the study.
        study: the posteriors.
        simulator: of its data.
        field: name of the latent field.
        num: how many observations.
        num_fields: fields drawn of each.
        num_replicates: as in :func:`look`.
    """
    numbers = np.arange(num)
    _, observation = simulations(key, model, numbers, simulator=simulator)
    target = build_target(key, model, (observation["y"][0],))
    for number in numbers:
        draws = dict(zip(study.names, study.draws[number].T, strict=True))
        key_look = jax.random.fold_in(key, number)
        yield look(key_look, target, observation["y"][number], draws, field, num_fields, num_replicates)
