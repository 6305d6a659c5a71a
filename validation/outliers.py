"""Mixtures far from their truth, and those on which two engines differ: which density, and which modes?

First the log density at the truth, or at Gibbs's posterior mean, less that at the surrogate's posterior mean, by the
bound that was interpolated, by the probability flow and by the Gaussian twin: where the first two agree the prior
itself is wrong about this field. Then what the reverse process makes of the observation when it is told the true
parameters, per band of |k|: the power of the noise that it finds over the power that noise has, which is one on average
for a true prior; and the error of the denoiser, the Wiener filter of the twin beside it, over the error that each
expects.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

import bayesdiff as bd
from bayesdiff.diffusion.fourier import mode_power
from bayesdiff.networks.wiener import WienerDenoiser
from models.dust_cmb.data import held_out_patches
from validation.chains import PARAMETERS
from validation.figures import RESULTS, Figure
from validation.mixtures import NUM_MIXTURES, kept, observations

EDGES = (0.5, 2.0, 4.0, 8.0, 12.0, 16.0, 20.0, 24.0, 28.0, 32.0, 46.0)
FAR, APART = 4.0, 0.5
NUM_FIELDS, NUM_STEPS = 64, 32


class Bands(NamedTuple):
    """Per band of |k|: powers and errors over what is expected of them.

    Attributes:
        dust: power of the true dust over that of the twin.
        noise: power of the true CMB and instrument noise over its variance.
        found: the same of the noise that the reverse process finds at the true parameters.
        denoiser: squared error of the denoiser over the error it expects.
        wiener: the same of the twin's Wiener filter.
        gain: squared error of the denoiser over the Wiener filter's.
    """

    dust: np.ndarray
    noise: np.ndarray
    found: np.ndarray
    denoiser: np.ndarray
    wiener: np.ndarray
    gain: np.ndarray


def run(folder: Path = RESULTS / "mixtures") -> list[Figure]:
    """All figures of this study, of the mixtures that are kept in ``folder``."""
    model = bd.load_pretrained("dust-cmb-64")
    cases = observations(model)
    posteriors = {i: p for i in range(NUM_MIXTURES) if (p := kept(folder / f"surrogate_{i:02d}.npz")) is not None}
    if not posteriors:
        raise ValueError(f"'{folder}' holds no posterior: run the study `mixtures` first")
    z = {
        i: np.array([(p.mean(name) - cases[i][0][name]) / p.sd(name) for name in PARAMETERS])
        for i, p in posteriors.items()
    }
    farthest = sorted((i for i in z if np.abs(z[i]).max() > FAR), key=lambda i: -np.abs(z[i]).max())
    others = np.abs(np.array([z[i] for i in z if i not in farthest])).mean(axis=0)
    figures = [
        Figure(f"mixtures with a |z| above {FAR:g}", f"{len(farthest)} of {len(z)}"),
        *(Figure(f"mean |z| of {name} in the others", float(v)) for name, v in zip(PARAMETERS, others, strict=True)),
    ]
    dust = held_out_patches(NUM_MIXTURES)
    gibbs = {i: p for i in posteriors if (p := kept(folder / f"gibbs_{i:02d}.npz")) is not None}
    apart = {
        i: max(abs(gibbs[i].mean(n) - posteriors[i].mean(n)) / posteriors[i].sd(n) for n in PARAMETERS) for i in gibbs
    }
    figures.append(
        Figure(
            f"mixtures whose engines differ by more than {APART:g} sd",
            f"{sum(x > APART for x in apart.values())} of {len(apart)}",
        )
    )
    for index in [*farthest, *(i for i in apart if apart[i] > APART and i not in farthest)]:
        truth, y = cases[index]
        print(f"mixture {index}: truth {truth}, z {z[index].round(2)}")
        points = {"the truth": jnp.asarray([truth[name] for name in PARAMETERS])}
        if index in gibbs:
            points["Gibbs's mean"] = jnp.asarray([gibbs[index].mean(name) for name in PARAMETERS])
        mean = jnp.asarray([posteriors[index].mean(name) for name in PARAMETERS])
        figures += _figures(f"mixture {index}", model, jnp.asarray(dust[index]), jnp.asarray(y), points, mean)
    return figures


def _figures(
    title: str, model, x: jax.Array, y: jax.Array, points: dict[str, jax.Array], mean: jax.Array
) -> list[Figure]:
    theta = points["the truth"]
    bands = _bands(model, x, y, theta)
    table = Table("|k|", *Bands._fields, title=title)
    for row in range(len(EDGES) - 1):
        table.add_row(_name(row), *(f"{column[row]:.3f}" for column in bands))
    Console(width=130).print(table)
    worst = int(np.argmax(np.abs(bands.found - 1.0)[2:])) + 2
    estimators = {"bound": bd.Elbo(32, 1), "flow": bd.ProbabilityFlow(num_steps=16, num_probes=4)}
    return [
        Figure(f"{title}: sigma", float(theta[2])),
        *(
            Figure(f"{title}: log density at {where} less that at the posterior mean, {name} [nat]", difference)
            for where, point in points.items()
            for name, difference in _differences(model, y, point, mean, estimators).items()
        ),
        Figure(f"{title}: band of |k| beyond 4 where the reverse process finds the wrong noise power", _name(worst)),
        Figure(f"{title}: noise power found there over the true power, at the truth", float(bands.found[worst])),
        Figure(f"{title}: power of the dust there over the twin's", float(bands.dust[worst])),
        Figure(f"{title}: squared error of the denoiser there over the error it expects", float(bands.denoiser[worst])),
        Figure(f"{title}: squared error of the denoiser there over the Wiener filter's", float(bands.gain[worst])),
    ]


def _name(row: int) -> str:
    return f"{EDGES[row]:g} to {EDGES[row + 1]:g}"


def _differences(model, y, theta, mean, estimators) -> dict[str, float]:
    differences = {}
    for name, estimator in estimators.items():
        density = jax.jit(lambda p, estimator=estimator: estimator(model, y, p[2], p[:2]))
        differences[name] = float(density(theta) - density(mean))
    twin = [model.twin_at(p[:2]).log_density(y, p[2], model.noise_power(p[:2])) for p in (theta, mean)]
    return {**differences, "twin": float(twin[0] - twin[1])}


def _bands(model: bd.DiffusionModel, x: jax.Array, y: jax.Array, theta: jax.Array) -> Bands:
    denoiser = model.denoiser
    assert isinstance(denoiser, WienerDenoiser)
    s, context = theta[2], theta[:2]
    noise_power = model.noise_power(context)
    size = x.shape[-1]
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(size, 1 / size), np.fft.fftfreq(size, 1 / size)))
    members = [(radius >= low) & (radius < high) for low, high in zip(EDGES[:-1], EDGES[1:], strict=True)]

    def ratio(a, b) -> np.ndarray:
        """Mean of the ratio over the modes of each band."""
        quotient = np.broadcast_to(np.asarray(a) / np.asarray(b), (1, size, size))[0]
        return np.array([quotient[band].mean() for band in members])

    observation = bd.NoisyDiffusion(model, s, context)
    draw = jax.jit(
        lambda keys: jax.lax.map(
            lambda key: mode_power(y - observation.sample_latent(key, y, NUM_STEPS)), keys, batch_size=8
        )
    )
    found = jnp.mean(draw(jax.random.split(jax.random.key(50), NUM_FIELDS)), axis=0)
    twin = denoiser.reference.at(context)
    network, wiener = (mode_power(d(y, s, noise_power, context) - x) for d in (denoiser, twin))
    expected = denoiser.posterior_variance(y, s, noise_power, context)
    gaussian = s**2 * noise_power * twin.levels(s, noise_power).signal
    total = s**2 * noise_power
    return Bands(
        dust=ratio(mode_power(x - twin.mean), twin.power),
        noise=ratio(mode_power(y - x), total),
        found=ratio(found, total),
        denoiser=ratio(network, expected),
        wiener=ratio(wiener, gaussian),
        gain=ratio(network, 1.0) / ratio(wiener, 1.0),
    )
