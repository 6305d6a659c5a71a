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

import bayesdiff as bd
from bayesdiff.calibration import FieldChecks, check_fields
from bayesdiff.diffusion.samplers import draw_prior
from models.denoising.data import load_dust
from models.denoising.model import NOISE_BOUNDS, make_model
from models.denoising.prior import DUST
from models.draws import BAND_EDGES
from validation.field_calibration import (
    FIELD,
    NUM_DRAWS,
    Campaign,
    calibrate,
    observe,
    of_fields,
    of_study,
    own_field,
)
from validation.field_posteriors import SURROGATE_OF_ONE
from validation.figures import RESULTS, Figure
from validation.ranked import LEVELS

NUM, NUM_FIELDS = 300, 100
KEY = 29
SURROGATE = bd.MarginalSurrogate(bd.Elbo(num_times=32, num_noise=1), **SURROGATE_OF_ONE)
RELAXED, RELAXED_STEPS = 0.1, 8
OWN, HELD_OUT, FLOW = "own draws", "held-out dust", "draws of the flow, known level"


def run(folder: Path = RESULTS / "prior_calibration") -> list[Figure]:
    """Ranks of the noise level and checks of fields, and a page for each kind of dust."""
    prior = bd.load_pretrained(DUST.name)
    windows = load_dust().windows(held_out=True)
    dust = {OWN: partial(own_field, prior), HELD_OUT: windows.draw}
    figures = []
    for name, draw in dust.items():
        title = f"The dust prior in white noise of unknown level: {name}"
        campaign = in_noise(prior, draw, title, str(__doc__))
        study, fields = calibrate(campaign, folder / name.replace(" ", "_"))
        required = name == OWN
        figures += [*of_study(name, study, required), *of_fields(name, fields, required)]
    return figures + of_fields(FLOW, known_level(prior, partial(flow_field, prior)), required=False)


def in_noise(
    prior: bd.DiffusionModel, draw: Callable[[jax.Array], jax.Array], title: str, about: str, key: int = KEY
) -> Campaign:
    """Fields in white noise whose level is to be found."""
    simulator = partial(simulate, prior, draw)
    return Campaign(key, make_model(prior), SURROGATE, simulator, prior.name, NUM, NUM_FIELDS, title, about)


def simulate(prior: bd.DiffusionModel, field: Callable[[jax.Array], jax.Array], key: jax.Array) -> dict[str, jax.Array]:
    """A field in white noise of a level from the model's prior."""
    key_field, key_level, key_noise = jax.random.split(key, 3)
    low, high = np.log(NOISE_BOUNDS)
    level = jnp.exp(jax.random.uniform(key_level, minval=low, maxval=high))
    return {"noise_level": level} | observe(key_noise, prior, field(key_field), level, prior.context_array(None))


def flow_field(prior: bd.DiffusionModel, key: jax.Array) -> jax.Array:
    """A draw of the prior by the flow, then out of a little noise by the reverse process.

    The flow ends at the lowest noise level of the schedule and leaves a texture of that size, which at small noise
    levels of an observation counts; the reverse process does not leave it.
    """
    key_flow, key_noise, key_relaxed = jax.random.split(key, 3)
    x = draw_prior(key_flow, prior, prior.context_array(None))
    noisy = x + RELAXED * jax.random.normal(key_noise, x.shape)
    return bd.NoisyDiffusion(prior, RELAXED).sample_latent(key_relaxed, noisy, RELAXED_STEPS)


def known_level(prior: bd.DiffusionModel, draw: Callable[[jax.Array], jax.Array]) -> FieldChecks:
    """Checks of fields drawn where the noise level is known."""

    @jax.jit
    def one(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        key_simulation, key_draws = jax.random.split(key)
        simulated = simulate(prior, draw, key_simulation)
        noisy = bd.NoisyDiffusion(prior, simulated["noise_level"])
        posterior = lambda key: noisy.sample_latent(key, simulated["y"])  # noqa: E731
        return simulated[FIELD], jax.vmap(posterior)(jax.random.split(key_draws, NUM_DRAWS))

    pairs = [jax.device_get(one(key)) for key in jax.random.split(jax.random.key(KEY), NUM_FIELDS)]
    truth, draws = (np.stack(arrays) for arrays in zip(*pairs, strict=True))
    return check_fields(truth, draws, edges=BAND_EDGES, levels=LEVELS)
