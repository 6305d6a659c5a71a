"""Posterior predictive checks: does the observation look like data from the fitted model?

Two kinds (Gelman, Meng & Stern 1996, Statistica Sinica 6, 733):

* **replicates**: data are drawn from the model at draws of the posterior, and statistics of the observation are
  compared with theirs. For a field: its power in bands of |k|, its one-point distribution, and whether it closes at
  its border as theirs do: models of fields in Fourier space are periodic, maps are not. Needs fields of the prior,
  which a learned prior draws with dozens of network evaluations each.
* **separated noise**, a realised discrepancy: at draws of (theta, x) the residual y - x of a ``NoisyDiffusion`` site
  has, if the model is right, the power s^2 Sigma, so the power over it, summed over the m modes of a band, is
  chi-square with m degrees of freedom. Free once the fields are drawn, and sharp where the first is not: what the
  field's prior lacks ends up in the noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import handlers
from scipy.stats import chi2

from bayesdiff.diffusion.fourier import mode_power
from bayesdiff.diffusion.model import DiffusionModel
from bayesdiff.distributions.batching import over_batch
from bayesdiff.fields import moments, power_spectrum, wavenumbers

from .diffusion_sites import noisy_sites_at
from .kept_draws import KeptDraws, keep_draws, map_draws, result_argument
from .sites import FIELD_DIMS, data_sites
from .target import BoundModel, Data, Model, Target, build_target

if TYPE_CHECKING:
    import xarray as xr

_QUANTILES = (0.01, 0.1, 0.5, 0.9, 0.99)


def predictive_checks(
    key: jax.Array,
    model: Model,
    *model_args: Any,
    data: xr.DataTree | None = None,
    num_replicates: int = 200,
    num_bands: int = 6,
    progress: bool = True,
    model_kwargs: Mapping[str, Any] | None = None,
) -> xr.DataTree:
    """Compare the observation with data replicated from the posterior, and separated noise with its predicted power.

    Args:
        key: random key.
        model: the NumPyro model that was sampled.
        *model_args: its arguments; the result may stand last among them instead of in ``data``.
        data: result of :func:`bayesdiff.sample`; with the group ``fields`` of :func:`bayesdiff.draw_fields` the
            separated noise of every ``NoisyDiffusion`` site is checked as well.
        num_replicates: replicated data sets; 0 leaves them out.
        num_bands: logarithmic bands of |k|, from the fundamental to the corner of the grid.
        progress: whether to show a progress bar.
        model_kwargs: keyword arguments of the model.

    Returns:
        The result with a group ``predictive_checks``: per observed site ``<site>_observed`` (statistic) and
        ``<site>_replicated`` (replicate, statistic); per ``NoisyDiffusion`` site ``<site>_residual_p``, the posterior
        predictive p-value of each band (near 1/2 if all is well), and ``<site>_residual_ratio``, its power over the
        predicted one. :func:`bayesdiff.reporting.verdict` reads it.

    Raises:
        ValueError: no result was given, it lacks a latent site of the model, or nothing is left to be checked.
    """
    model_args, data = result_argument(model_args, data, "predictive_checks")
    key_target, key_draws = jax.random.split(key)
    target = build_target(key_target, model, model_args, model_kwargs)
    return checks_of(key_draws, target, data, num_replicates, num_bands, progress)


def checks_of(
    key: jax.Array,
    target: Target,
    data: xr.DataTree,
    num_replicates: int = 200,
    num_bands: int = 6,
    progress: bool = True,
) -> xr.DataTree:
    """:func:`predictive_checks` of a target; compiled once for all data of one target."""
    import xarray as xr

    group = xr.Dataset()
    sites: set[str] = set()
    if num_replicates > 0:
        kept = keep_draws(target, data, num_replicates)
        replicated = map_draws(_replicate, (target.functions,), key, kept.values, target.data, "replicates", progress)
        for site, values in replicated.items():
            names, statistics = _statistics(np.concatenate([target.observed[site][None], values]), num_bands)
            group[f"{site}_observed"] = ((f"{site}_statistic",), statistics[0])
            group[f"{site}_replicated"] = (("replicate", f"{site}_statistic"), statistics[1:])
            group = group.assign_coords({f"{site}_statistic": names})
            sites.add(site)
    if "fields" in data.children:
        for site, (bands, p, ratio) in _residuals(target, data, num_bands).items():
            group[f"{site}_residual_p"] = ((f"{site}_band",), p)
            group[f"{site}_residual_ratio"] = ((f"{site}_band",), ratio)
            group = group.assign_coords({f"{site}_band": bands})
            sites.add(site)
    if not sites:
        raise ValueError("nothing to check: give num_replicates, or draw the fields of the result first")
    group.attrs["sites"] = ",".join(sorted(sites))
    result = data.copy()
    result["predictive_checks"] = xr.DataTree(group)
    return result


def _replicate(functions: BoundModel, key: jax.Array, values: dict[str, jax.Array], data: Data) -> dict[str, jax.Array]:
    args, kwargs = functions.arguments(data)
    free = handlers.uncondition(handlers.substitute(handlers.seed(functions.model, key), data=values))
    trace = handlers.trace(free).get_trace(*args, **kwargs)
    observed = {name: trace[name] for name in functions.observed}
    return {name: jnp.asarray(observed[name]["value"]) for name in data_sites(observed | _as_observed(observed))}


def _as_observed(sites: Mapping[str, Any]) -> dict[str, Any]:
    return {name: {**site, "is_observed": True} for name, site in sites.items()}


def _statistics(values: np.ndarray, num_bands: int) -> tuple[list[str], np.ndarray]:
    """Names of the statistics and their values (num, statistic) for data sets (num, ...)."""
    flat = values.reshape(len(values), -1)
    if flat.shape[1] == 1:
        return ["value"], flat
    names = ["mean", "standard deviation", *(f"{100 * q:g} % quantile" for q in _QUANTILES)]
    columns = [flat.mean(axis=1), flat.std(axis=1), *np.quantile(flat, _QUANTILES, axis=1)]
    if values.ndim == 1 + len(FIELD_DIMS) and min(values.shape[-2:]) > 2:
        edges = _band_edges(values.shape[-2:], num_bands)
        # Compiled, they take NaN: a replicate that overflowed has NaN for its own statistics and leaves the others.
        shape = jax.jit(moments)(values)
        power = np.asarray(jax.jit(lambda maps: power_spectrum(maps, edges=edges).power)(values))
        for channel in range(values.shape[1]):
            label = f" of channel {channel}" if values.shape[1] > 1 else ""
            names += [f"skewness{label}", f"kurtosis{label}"]
            columns += [np.asarray(shape.skewness)[:, channel], np.asarray(shape.kurtosis)[:, channel]]
            names += [f"log power{label} at |k| {lo:.0f} to {hi:.0f}" for lo, hi in zip(edges, edges[1:], strict=False)]
            columns += list(np.log(np.maximum(power[:, channel], 1e-300)).T)
            names.append(f"log roughness{label} across the border, over that inside")
            columns.append(_border_roughness(values[:, channel]))
    return names, np.stack(columns, axis=1)


def _border_roughness(maps: np.ndarray) -> np.ndarray:
    """Log mean square of second differences that reach around the border, over that of other rows and columns.

    The maps are (num, H, W). Of the others it is the median: a spot is no border.
    """
    logs = []
    for axis in (-2, -1):
        second = np.roll(maps, 1, axis) - 2.0 * maps + np.roll(maps, -1, axis)
        square = np.moveaxis(second**2, axis, 0).mean(axis=-1)
        around, inside = square[[0, -1]].mean(axis=0), np.median(square[1:-1], axis=0)
        logs.append(np.log(np.maximum(around, 1e-300)) - np.log(np.maximum(inside, 1e-300)))
    return np.mean(logs, axis=0)


def _band_edges(shape: tuple[int, ...], num_bands: int) -> np.ndarray:
    """Edges of bands of |k|, logarithmic from half a fundamental to the corner; bands without a mode are merged."""
    k = wavenumbers((shape[0], shape[1]))
    k = np.sort(k[k > 0])
    edges = np.geomspace(0.99 * k[0], 1.001 * k[-1], num_bands + 1)
    occupied = np.histogram(k, edges)[0] > 0
    return np.concatenate([edges[:1], edges[1:][occupied]])


def _residuals(
    target: Target, data: xr.DataTree, num_bands: int
) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Per NoisyDiffusion site: centre, mean chi-square p-value and mean power ratio of each band."""
    fields = data["fields"].to_dataset()
    labels = {"chain": fields["chain"].values, "draw": fields["draw"].values}
    posterior = data["posterior"].to_dataset().sel(labels)
    kept = keep_draws(target, _as_result(posterior), posterior.sizes["chain"] * posterior.sizes["draw"])
    powers = map_draws(_noise_power, (target.functions,), jax.random.key(0), kept.values, target.data, "", False)
    results = {}
    for site, power in powers.items():
        name = _field_name(target, kept, site, len(powers) > 1)
        x = fields[name].values.reshape(len(power), *power.shape[1:])
        ratio = np.asarray(mode_power(jnp.asarray(target.observed[site] - x))) / power
        k = wavenumbers((ratio.shape[-2], ratio.shape[-1]))
        edges = _band_edges(k.shape, num_bands)
        band = np.digitize(k.ravel(), edges) - 1
        inside = (k.ravel() > 0) & (band >= 0) & (band < len(edges) - 1)
        total = np.stack(
            [
                np.bincount(band[inside], weights=row.sum(axis=0).ravel()[inside], minlength=len(edges) - 1)
                for row in ratio.reshape(len(ratio), -1, *k.shape)
            ]
        )
        degrees = np.prod(ratio.shape[1:-2], dtype=int) * np.bincount(band[inside], minlength=len(edges) - 1)
        centres = np.bincount(band[inside], weights=k.ravel()[inside], minlength=len(edges) - 1)
        centres /= np.bincount(band[inside], minlength=len(edges) - 1)
        results[site] = (centres, chi2.sf(total, degrees).mean(axis=0), (total / degrees).mean(axis=0))
    return results


def _noise_power(
    functions: BoundModel, key: jax.Array, values: dict[str, jax.Array], data: Data
) -> dict[str, jax.Array]:
    del key

    def one(s: jax.Array, context: jax.Array, model: DiffusionModel) -> jax.Array:
        return s**2 * jnp.broadcast_to(model.noise_power(context), model.event_shape)

    return {
        name: over_batch(partial(one, model=fn.model), y.shape[:-3], [(fn.noise_level, 0), (fn.context, 1)])
        for name, (fn, y) in noisy_sites_at(functions, values, data).items()
    }


def _field_name(target: Target, kept: KeptDraws, site: str, several: bool) -> str:
    first = {name: x[0] for name, x in kept.values.items()}
    model = noisy_sites_at(target.functions, first, target.data)[site][0].model
    return f"{site}_{model.name}" if several else model.name


def _as_result(posterior: xr.Dataset) -> xr.DataTree:
    import xarray as xr

    return xr.DataTree.from_dict({"posterior": posterior})
