"""Mass maps against the Wiener reconstruction: a held-out simulation of known truth, and HST-COSMOS.

The simulation is the MassiveNuS map, of another suite than the training map, under the mask and noise of COSMOS; its
shear is that of the whole map, of which the model sees the middle. The Wiener reconstruction has the mean and power of
the training map's convergence. The prior's twin, a lognormal field, is run as well, so that one can tell what the
logarithm does from what the network has learned. Errors are over the observed pixels, less their mean there, which
shear does not measure; intervals are left as they are.

One map is one draw: a few hundred pixels apart from one another, so that the coverage of a calibrated 68 % interval
scatters by about 0.03.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import arviz_stats
import jax
import numpy as np
import xarray as xr

import bayesdiff as bd
from inference.folder import RESULT, RUNNING_STORE, clear_output
from inference.mass_mapping import load_prior, reconstruct, wiener_of, write_results
from inference.sampled_field import field_draws
from models.mass_mapping.data import ShearMap, load_cosmos
from models.mass_mapping.model import NUM_STEPS, chi_square, make_model, observe_held_out
from models.mass_mapping.prior import NAME, convergence_scale, gaussian_convergence
from validation.figures import RESULTS, Figure, above, below, between

NUM_CHAINS = 2
LENGTHS = {"twin": (500, 2000), NAME: (150, 1000)}
"""Warm-up and draws of each chain, by prior: a gradient of the trained one costs hundreds of those of the twin."""
MANY_STEPS = 24
SEED = 11
FOLDER = RESULTS / "mass_mapping"


class Errors(NamedTuple):
    """Errors of a map and of the Wiener reconstruction over the observed pixels, and coverage of central intervals.

    Attributes:
        sampled: rms error of the posterior mean.
        wiener: rms error of the Wiener mean.
        coverage: share of pixels whose truth lies in the 68 % interval of the draws.
        wiener_coverage: the same for the Wiener reconstruction's draws.
    """

    sampled: float
    wiener: float
    coverage: float
    wiener_coverage: float


def run() -> list[Figure]:
    """Both maps with the twin, and COSMOS with the trained prior: figures, and a report with the pictures of each map.

    A run that is killed continues where it was, and what is finished is not done again.
    """
    trained = load_prior(NAME)
    figures = [figure for name in observations() for figure in mapped(name, load_prior("twin"), "twin")]
    return [*figures, flow_error(trained), *mapped("COSMOS", trained, NAME)]


def held_out() -> list[Figure]:
    """The held-out map with the trained prior, another hour on a core."""
    return mapped("held-out map", load_prior(NAME), NAME)


def observations() -> dict[str, ShearMap]:
    """What is mapped."""
    return {"COSMOS": load_cosmos(), "held-out map": observe_held_out(jax.random.key(SEED))}


def mapped(name: str, prior: bd.DiffusionModel, prior_name: str) -> list[Figure]:
    """The figures of one map with one prior."""
    observed, folder = observations()[name], FOLDER / f"{name.replace(' ', '_').lower()}_{prior_name}"
    if not (folder / RESULT).exists():
        store = folder / RUNNING_STORE
        if not store.exists():
            clear_output(folder)
        num_warmup, num_samples = LENGTHS[prior_name]
        model = make_model(prior, observed.survey, convergence_scale(prior).convergence)
        options: Any = {"num_chains": NUM_CHAINS, "num_samples": num_samples, "seed": SEED, "store": store}
        algorithm = bd.AdjustedMCLMC(num_warmup=num_warmup)
        data = reconstruct(observed, gaussian_convergence(), model, algorithm=algorithm, **options)
        write_results(data, observed, folder, prior_name)
    data = xr.open_datatree(folder / RESULT, engine="zarr")
    label = f"{name}, {prior_name}"
    return [replace(figure, name=f"{label}: {figure.name}") for figure in figures_of(data, observed)]


def flow_error(prior: bd.DiffusionModel, num: int = 32) -> Figure:
    """What the few steps of the flow change in a field: its rms against that of many steps, over the field's own."""
    values = jax.random.normal(jax.random.key(SEED), (num, *prior.event_shape))
    few, many = (bd.FlowTransform(prior, num_steps=steps)(values) for steps in (NUM_STEPS, MANY_STEPS))
    name = f"flow: rms difference of {NUM_STEPS} steps from {MANY_STEPS}, over the rms of the field"
    return Figure(name, float(np.std(few - many) / np.std(many)))


def errors(data: xr.DataTree, observed: ShearMap) -> Errors:
    """Errors and coverage of a result whose truth is known.

    Raises:
        ValueError: it is not.
    """
    if observed.truth is None:
        raise ValueError("errors need the truth, and that of this shear is not known")
    mask, truth = np.asarray(observed.survey.mask, dtype=bool), observed.truth["kappa"][0]
    draws, wiener = field_draws(data, "kappa"), wiener_of(data)
    return Errors(
        rms_error(draws.mean(axis=0)[0], truth, mask),
        rms_error(wiener.mean[0], truth, mask),
        interval_coverage(draws[:, 0], truth, mask),
        interval_coverage(wiener.draws[:, 0], truth, mask),
    )


def rms_error(estimate: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
    """Root-mean-square difference over the observed pixels, its mean removed."""
    return float(np.std((estimate - truth)[mask]))


def interval_coverage(draws: np.ndarray, truth: np.ndarray, mask: np.ndarray, share: float = 0.68) -> float:
    """Share of the observed pixels whose truth lies in the central interval of draws (num, H, W)."""
    low, high = np.quantile(draws[:, mask], [0.5 - share / 2, 0.5 + share / 2], axis=0)
    return float(np.mean((truth[mask] >= low) & (truth[mask] <= high)))


def figures_of(data: xr.DataTree, observed: ShearMap) -> list[Figure]:
    """The figures of one map."""
    mask = np.asarray(observed.survey.mask, dtype=bool)
    draws, wiener = field_draws(data, "kappa"), wiener_of(data)
    mean = draws.mean(axis=0)[0]
    kappa = data["posterior"]["kappa"]
    ess = min(float(arviz_stats.ess(data["posterior"][name]).min()) for name in ("kappa", "level"))
    chosen = draws[:: max(1, len(draws) // 100)]
    figures = [
        below("largest R-hat of a pixel", float(arviz_stats.rhat(kappa).max()), 1.02),
        above("smallest effective sample size", ess, 100.0),
        Figure("seconds of sampling, compiling apart", float(data.attrs["sampling_seconds"])),
        between("chi-square of the residual shear per value", float(chi_square(chosen, observed).mean()), 0.9, 1.15),
        Figure("noise level", float(data["posterior"].to_dataset()["level"].mean())),
        Figure("correlation with the Wiener mean", float(np.corrcoef(mean[mask], wiener.mean[0][mask])[0, 1])),
        Figure("rms difference from the Wiener mean [Wiener s.d.]",
               float(np.sqrt(np.mean(((mean - wiener.mean[0]) / wiener.sd[0])[mask] ** 2)))),
        Figure("mean posterior s.d. over Wiener's", float(np.mean(draws.std(axis=0)[0][mask] / wiener.sd[0][mask]))),
        Figure("highest signal-to-noise of a pixel", float(np.max((mean / draws.std(axis=0)[0])[mask]))),
    ]  # fmt: skip
    if observed.truth is not None:
        found = errors(data, observed)
        figures += [
            below("rms error of the posterior mean over that of Wiener's", found.sampled / found.wiener, 1.0),
            between("share of truths in 68 % intervals", found.coverage, 0.58, 0.78),
            Figure("share of truths in the Wiener reconstruction's 68 % intervals", found.wiener_coverage),
            Figure("rms error of the posterior mean over the rms of the truth",
                   found.sampled / float(np.std(observed.truth["kappa"][0][mask]))),
        ]  # fmt: skip
    return figures
