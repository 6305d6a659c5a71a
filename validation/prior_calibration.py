"""Calibration of the shipped dust prior in white noise of unknown level: on its own draws, and on dust it has not seen.

The first tests the machinery and the denoiser together: the reverse process that draws fields from the prior, the bound
on its density that the level is inferred by, and the reverse process from an observation. It must pass. The second
tests the prior: the windows are those of the held-out rows. Where it misses, the coverage of Fourier bands says at
which scales. The flow of a denoiser that is learned has a law of its own: what the reverse process makes of fields that
the flow drew, their noise level known, is shown as well.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

import bayesdiff as bd
from bayesdiff.calibration import FieldChecks, Sbc, check_fields, tarp
from bayesdiff.diffusion.samplers import ancestral_draw, draw_prior
from bayesdiff.sampling.target import build_target
from models.denoising.data import load_dust
from models.denoising.model import NOISE_BOUNDS, make_model
from models.denoising.prior import DUST
from models.draws import BAND_EDGES
from validation.alarms import look
from validation.figures import RESULTS, Figure, above, below
from validation.ranked import LEVELS, quantity_figures

NUM, NUM_FIELDS, NUM_DRAWS = 300, 100, 39
KEY = 29
SURROGATE = bd.MarginalSurrogate(
    bd.Elbo(num_times=32, num_noise=1), num_design=8, num_test=10, min_bulk=8, steps_per_draw=2
)
RELAXED, RELAXED_STEPS = 0.1, 8
OWN, HELD_OUT, FLOW = "own draws", "held-out dust", "draws of the flow, known level"


def run(folder: Path = RESULTS / "prior_calibration") -> list[Figure]:
    """Ranks of the noise level and checks of fields, and a page for each kind of dust."""
    prior = bd.load_pretrained(DUST.name)
    windows = load_dust().windows(held_out=True)
    dust = {OWN: partial(prior_field, prior), HELD_OUT: windows.draw}
    figures = []
    for name, draw in dust.items():
        study, fields = calibrate(prior, partial(simulate, draw), folder / name.replace(" ", "_"), name)
        figures += [*of_study(name, study), *of_fields(name, fields)]
    return figures + of_fields(FLOW, known_level(prior, partial(flow_field, prior)))


def calibrate(prior: bd.DiffusionModel, simulator: Callable, folder: Path, name: str) -> tuple[Sbc, FieldChecks]:
    """The study, the checks of the fields of its first simulations, and their page. Both continue where they were."""
    key, model = jax.random.key(KEY), make_model(prior)
    study = bd.calibration.sbc(
        key, model, algorithm=SURROGATE, num_simulations=NUM, simulator=simulator, store=folder / "study.sbc"
    )
    numbers = np.arange(NUM_FIELDS)
    truth, observation = bd.calibration.simulations(key, model, numbers, simulator=simulator)
    target = build_target(key, model, (observation["y"][0],))
    draws = []
    for number in numbers:
        path = folder / "fields" / f"{number:03d}.npy"
        if not path.exists():
            posterior = dict(zip(study.names, study.draws[number].T, strict=True))
            some = look(
                jax.random.fold_in(key, number), target, observation["y"][number], posterior, prior.name, NUM_DRAWS, 0
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            partial_path = path.with_suffix(".partial.npy")
            np.save(partial_path, some.fields)
            partial_path.rename(path)
        draws.append(np.load(path))
    fields = check_fields(truth["dust"], np.stack(draws), edges=BAND_EDGES, levels=LEVELS)
    title = f"The dust prior in white noise of unknown level: {name}"
    bd.reporting.write_calibration_report(study, folder, title=title, notes=(str(__doc__),), fields=fields)
    return study, fields


def simulate(dust: Callable[[jax.Array], jax.Array], key: jax.Array) -> dict[str, jax.Array]:
    """Dust in white noise of a level from the model's prior."""
    key_dust, key_level, key_noise = jax.random.split(key, 3)
    low, high = np.log(NOISE_BOUNDS)
    level = jnp.exp(jax.random.uniform(key_level, minval=low, maxval=high))
    x = dust(key_dust)
    return {"noise_level": level, "dust": x, "y": x + level * jax.random.normal(key_noise, x.shape)}


def prior_field(prior: bd.DiffusionModel, key: jax.Array) -> jax.Array:
    """A draw of the prior by the reverse process."""
    return ancestral_draw(key, prior, prior.context_array(None))


def flow_field(prior: bd.DiffusionModel, key: jax.Array) -> jax.Array:
    """A draw of the prior by the flow, then out of a little noise by the reverse process.

    The flow ends at the lowest noise level of the schedule and leaves a texture of that size, which at small noise
    levels of an observation counts; the reverse process does not leave it.
    """
    key_flow, key_noise, key_relaxed = jax.random.split(key, 3)
    x = draw_prior(key_flow, prior, prior.context_array(None))
    noisy = x + RELAXED * jax.random.normal(key_noise, x.shape)
    return bd.NoisyDiffusion(prior, RELAXED).sample_latent(key_relaxed, noisy, RELAXED_STEPS)


def known_level(prior: bd.DiffusionModel, dust: Callable[[jax.Array], jax.Array]) -> FieldChecks:
    """Checks of fields drawn where the noise level is known."""

    @jax.jit
    def one(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        key_simulation, key_draws = jax.random.split(key)
        simulated = simulate(dust, key_simulation)
        noisy = bd.NoisyDiffusion(prior, simulated["noise_level"])
        draw = lambda key: noisy.sample_latent(key, simulated["y"])  # noqa: E731
        return simulated["dust"], jax.vmap(draw)(jax.random.split(key_draws, NUM_DRAWS))

    pairs = [jax.device_get(one(key)) for key in jax.random.split(jax.random.key(KEY), NUM_FIELDS)]
    truth, draws = (np.stack(arrays) for arrays in zip(*pairs, strict=True))
    return check_fields(truth, draws, edges=BAND_EDGES, levels=LEVELS)


def of_study(name: str, study: Sbc) -> list[Figure]:
    """Figures of the noise level."""
    joint = tarp(study.truth[study.ranked], study.draws[study.ranked])
    smallest = float(study.tests.adjusted.min())
    label = f"{name}: noise level: smallest adjusted p-value of the ranks, {study.num_simulations} simulations"
    failed = len(study.failed) / study.num_simulations
    return [
        above(label, smallest, 0.01) if name == OWN else Figure(label, smallest),
        below(f"{name}: part of the simulations that failed", failed, 0.05)
        if name == OWN
        else Figure(f"{name}: part of the simulations that failed", failed),
        *quantity_figures(name, study),
        Figure(f"{name}: noise level: TARP area", joint.area),
    ]


def of_fields(name: str, fields: FieldChecks) -> list[Figure]:
    """Figures of the fields, and their coverage in every band."""
    table = Table("|k|", *(f"{level:.0%}" for level in LEVELS), "spread [s.e.]", title=f"{name}: coverage of modes")
    for k, shares, z in zip(
        fields.bands.centers, fields.bands.coverage.observed[0], fields.bands.spread.z[0], strict=True
    ):
        table.add_row(f"{k:.1f}", *(f"{x:.3f}" for x in shares), f"{z:+.1f}")
    Console(width=100).print(table)
    print(fields.verdict())
    excess = np.abs(fields.bands.coverage.observed[0] - np.array(LEVELS))
    figures = []
    for check, p in fields.p_values().items():
        label = f"{name}: {check} of {fields.num_simulations} fields: p-value"
        figures.append(above(label, p, 0.01 / len(fields.p_values())) if name == OWN else Figure(label, p))
    for i, level in enumerate(LEVELS):
        worst = int(np.argmax(excess[:, i]))
        label = f"{name}: {level:.0%} coverage of modes: the band farthest from it"
        value = f"{fields.bands.coverage.observed[0, worst, i]:.3f} at |k| of {fields.bands.centers[worst]:.1f}"
        figures.append(Figure(label, value))
    return [*figures, Figure(f"{name}: TARP area of fields", fields.tarp.area)]
