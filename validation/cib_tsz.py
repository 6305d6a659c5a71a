"""The priors of CIB and tSZ: draws beside held-out mocks, and amplitudes found in simulated maps of two frequencies.

Draws are judged with their variance rescaled, as published, and without. Their statistics are in units of the scatter
from patch to patch, as in the published comparison (Prabhu et al. 2025, arXiv:2506.09036), and beside those of Gaussian
fields with the auto- and cross-spectra of the held-out maps, whose third and connected fourth moments are zero.
"""

from __future__ import annotations

import time
from itertools import combinations_with_replacement
from typing import Any

import arviz_stats
import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

import bayesdiff as bd
from inference.cib_tsz import load_prior
from models.cib_tsz.amplitudes import amplitude_posterior, spectra_of
from models.cib_tsz.data import load
from models.cib_tsz.model import NUM_STEPS as FLOW_STEPS
from models.cib_tsz.model import make_model
from models.cib_tsz.observation import NOISE, cmb_power, observe_held_out
from models.cib_tsz.pictures import draw_generated
from models.cib_tsz.prior import CIB, CIB_TSZ, Kind
from models.cib_tsz.quality import (
    NUM_EVALUATIONS,
    OCTAVES,
    PEAK_RANGES,
    Difference,
    bispectra,
    correlations,
    difference,
    spectra,
    stacked_profiles,
    to_maps,
    trispectra,
)
from models.draws import BAND_EDGES, draw_fields
from validation.field_posteriors import Row, calibration_figures, posteriors, row
from validation.figures import RESULTS, Figure, below

NUM_DRAWS = 512
FOLDER = RESULTS / "cib_tsz"
NAMES = ("A_cib", "A_tsz")
NUM_SPECTRA, NUM_TWIN, MANY_STEPS = 64, 4, 24
TWIN: dict[str, Any] = {"num_warmup": 250, "trajectory_length": 1.5}
SHORT = {"cib_95": "CIB 95", "cib_150": "CIB 150", "cib_857": "CIB 857", "tsz_150": "tSZ"}


def run() -> list[Figure]:
    """Draws of both priors against held-out mocks."""
    return [*draws_of(CIB_TSZ, moments=True), *draws_of(CIB, moments=False)]


def draws_of(kind: Kind, moments: bool) -> list[Figure]:
    """Spectra and correlations of draws, as they are and rescaled; stacked profiles, third and fourth moments."""
    model, held_out = bd.load_pretrained(kind.name), load(kind.channels).patches()
    fields = kept_draws(model, kind)
    drawn = to_maps(fields, model)
    draw_generated(drawn, held_out, kind.channels, FOLDER / f"{kind.name}.png", kind.title)
    gaussian = np.asarray(bd.fields.matched_gaussian(jax.random.key(5), held_out, NUM_DRAWS))
    factors = ", ".join(f"{x:.3f}" for x in model.card.entries["rescaling"]["factors"])
    figures = [Figure(f"{kind.name}: factors of rescaling, by channel", factors)]
    figures += spectra_figures(kind, drawn, held_out, required=True)
    figures += spectra_figures(kind, to_maps(fields, model, rescale=False), held_out, required=False)
    if moments:
        figures += profile_figures(kind, drawn, gaussian, held_out)
        figures += moment_figures(kind, drawn, gaussian, held_out)
    memory = model.card.entries["quality"]["memorisation"]
    ratio = memory["nearest_patch_draws"] / memory["nearest_patch_held_out"]
    name = f"{kind.name}: median distance to the nearest training patch, draws over held-out patches (card)"
    return [*figures, Figure(name, ratio)]


def kept_draws(model: bd.DiffusionModel, kind: Kind) -> np.ndarray:
    """Standardised draws of a prior, from disk where they are there."""
    path = FOLDER / f"{kind.name}-{model.fingerprint()[:12]}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, draw_fields(model, NUM_DRAWS, num_evaluations=NUM_EVALUATIONS))
    return np.load(path, allow_pickle=False)


def spectra_figures(kind: Kind, drawn: np.ndarray, held_out: np.ndarray, required: bool) -> list[Figure]:
    """Auto- and cross-spectra in standard deviations of a single patch, and correlation coefficients."""
    found = difference(spectra(drawn), spectra(held_out))
    title = kind.name if required else f"{kind.name}, not rescaled"
    pairs = list(combinations_with_replacement(range(len(kind.channels)), 2))
    labels = [" x ".join(SHORT[kind.channels[i]] for i in dict.fromkeys(pair)) for pair in pairs]
    table = Table("|k| [fundamental]", *labels, title=f"{title}: power of draws over that of held-out maps")
    for band, edges in enumerate(zip(BAND_EDGES, BAND_EDGES[1:], strict=False)):
        ratio = found.drawn[..., band] / found.held_out[..., band]
        table.add_row("{:g} to {:g}".format(*edges), *(f"{ratio[pair]:.3f}" for pair in pairs))
    Console(width=140).print(table)
    figures = []
    for pair, label in zip(pairs, labels, strict=True):
        name = f"{title}: {label}: largest difference of a band [standard deviations of a patch]"
        worst = float(found.scatters[pair].max())
        figures.append(below(name, worst, 0.25) if required else Figure(name, worst))
    sampling = float((found.error / found.sd).max())
    figures.append(Figure(f"{title}: sampling error of these", sampling, detail=True))
    change = np.abs(correlations(found.drawn) - correlations(found.held_out)).max()
    name = f"{title}: correlations of channels: largest difference of a band"
    frequencies = required and "tsz_150" not in kind.channels
    return [*figures, below(name, float(change), 0.03) if frequencies else Figure(name, float(change))]


def profile_figures(kind: Kind, drawn: np.ndarray, gaussian: np.ndarray, held_out: np.ndarray) -> list[Figure]:
    """Stacked profiles about the peaks of the tSZ effect, where they are above a fifth of their height."""
    channel = kind.channels.index("tsz_150")
    tsz = held_out[:, channel] - held_out[:, channel].mean(axis=(-2, -1), keepdims=True)
    noise = float(tsz.std())
    theirs, ours, normal = (stacked_profiles(x, channel, -1.0, noise) for x in (held_out, drawn, gaussian))
    figures = []
    for number, (low, high) in enumerate(PEAK_RANGES):
        label = f"peaks of {low:g} to {high:g} s.d." if np.isfinite(high) else f"peaks above {low:g} s.d."
        profile = np.asarray(theirs.profile[channel, number])
        seen = profile / profile[0] > 0.2
        change = np.abs(np.asarray(ours.profile[channel, number]) / profile - 1.0)[seen]
        counts = [float(x.count[0, number]) / len(maps) for x, maps in zip((ours, theirs, normal),
                  (drawn, held_out, gaussian), strict=True)]  # fmt: skip
        figures += [
            below(f"{kind.name}: tSZ stacked on {label}: largest relative difference", float(change.max()), 0.08),
            Figure(
                f"{kind.name}: {label} per patch: drawn, held out, Gaussian", "{:.3g}, {:.3g}, {:.3g}".format(*counts)
            ),
        ]
        other = [float(x.profile[1 - channel, number, 0]) for x in (ours, theirs)]
        name = f"{kind.name}: CIB at the centre of {label} [micro-K]: drawn, held out"
        figures.append(Figure(name, "{:.3g}, {:.3g}".format(*other)))
    return figures


def moment_figures(kind: Kind, drawn: np.ndarray, gaussian: np.ndarray, held_out: np.ndarray) -> list[Figure]:
    """Third and connected fourth moments of all combinations of channels, in octaves."""
    figures = []
    for order, statistic, title in ((3, bispectra, "bispectrum"), (4, trispectra, "trispectrum")):
        combinations = list(combinations_with_replacement(range(2), order))
        columns = [f"{low:g} to {high:g}" for low, high in zip(OCTAVES, OCTAVES[1:], strict=False)]
        table = Table("channels", *columns, title=f"{title}: drawn / held out / Gaussian, in s.d. of a held-out patch")
        worst, significant, baseline = [], [], []
        for channels in combinations:
            theirs, ours, normal = (statistic(x, channels) for x in (held_out, drawn, gaussian))  # pyright: ignore
            found, zero = difference(ours, theirs), difference(normal, theirs)
            worst.append(found.scatters.max())
            significant.append(found.errors.max())
            baseline.append(np.abs(zero.drawn / (normal.std(axis=0) / np.sqrt(len(normal)))).max())
            table.add_row(" ".join(SHORT[kind.channels[i]] for i in channels), *_cells(found, zero))
        Console(width=140).print(table)
        label = f"{kind.name}: {title}"
        name = f"{label}: largest difference of {len(combinations)} combinations [standard deviations of a patch]"
        figures += [
            below(name, float(np.max(worst)), 1.0),
            Figure(f"{label}: the same in standard errors of the difference", float(np.max(significant))),
            below(
                f"{label} of the Gaussian baseline: largest mean in its own standard error",
                float(np.max(baseline)),
                4.0,
            ),
        ]
    return figures


def _cells(found: Difference, zero: Difference) -> list[str]:
    values = zip(found.drawn / found.sd, found.held_out / found.sd, zero.drawn / found.sd, strict=True)
    return [" / ".join(f"{x:.2f}" for x in cell) for cell in values]


def amplitudes() -> list[Figure]:
    """Amplitudes of CIB and tSZ in held-out mocks: by spectra alone, by the twin with both fields sampled; cost."""
    cmb, twin = cmb_power(), load_prior("twin")
    observed = [observe_held_out(index, _truth(index)) for index in range(NUM_SPECTRA)]
    truths = np.array([_truth(index) for index in range(NUM_SPECTRA)])
    matrix = spectra_of(twin)

    def by_spectra(index: int, maps: np.ndarray, truth: np.ndarray) -> Row:
        clock = time.perf_counter()
        found = amplitude_posterior(maps, matrix, cmb, NOISE, num=32)
        rng = np.random.default_rng(index)
        cells = rng.choice(found.density.size, 2000, p=found.density.ravel())
        draws = np.stack([found.axis[i][np.unravel_index(cells, found.density.shape)[i]] for i in range(2)])
        drawn = row(draws, truth, True, found.density.size, time.perf_counter() - clock)
        return drawn._replace(mean=found.mean.tolist(), sd=found.sd.tolist())

    model = make_model(twin, NOISE, cmb)

    def by_twin(index: int, maps: np.ndarray, truth: np.ndarray) -> Row:
        clock = time.perf_counter()
        data = bd.sample(
            jax.random.key(100 + index),
            model,
            maps,
            algorithm=bd.AdjustedMCLMC(**TWIN),
            num_chains=2,
            num_samples=600,
            keep=NAMES,
            progress=False,
        )
        draws = np.stack([np.asarray(data["posterior"][name]).ravel() for name in NAMES])
        worst = max(float(arviz_stats.rhat(data["posterior"][name]).max()) for name in NAMES)
        return row(draws, truth, worst < 1.02, 0, time.perf_counter() - clock)

    maps = [x.maps for x in observed]
    rows = posteriors(FOLDER, "by_spectra", by_spectra, maps, truths)
    figures = calibration_figures("spectra alone", rows, truths, NAMES)
    rows = posteriors(FOLDER, "by_twin", by_twin, maps[:NUM_TWIN], truths[:NUM_TWIN])
    figures += calibration_figures("twin, fields sampled", rows, truths[:NUM_TWIN], NAMES)
    return [*figures, *cost(cmb, maps[0])]


def _truth(index: int) -> tuple[float, float]:
    """Amplitudes of a patch, uniform in the logarithm between 0.5 and 2."""
    low, high = np.random.default_rng([17, index]).uniform(np.log(0.5), np.log(2.0), 2)
    return float(np.exp(low)), float(np.exp(high))


def cost(cmb: np.ndarray, maps: np.ndarray) -> list[Figure]:
    """What a gradient costs with the trained prior and with its twin, and what the few steps of the flow change."""
    from numpyro.infer.util import potential_energy

    figures, trained = [], bd.load_pretrained(CIB_TSZ.name)
    for name, prior in (("trained prior", trained), ("twin", load_prior("twin"))):
        model = make_model(prior, NOISE, cmb)
        position = {
            "A_cib": jnp.zeros(()),
            "A_tsz": jnp.zeros(()),
            "x_base": jax.random.normal(jax.random.key(0), prior.event_shape),
        }
        gradient = jax.jit(jax.grad(lambda p, model=model: potential_energy(model, (maps,), {}, p)))
        jax.block_until_ready(gradient(position))
        clock = time.perf_counter()
        for _ in range(3):
            jax.block_until_ready(gradient(position))
        figures.append(Figure(f"{name}: seconds of a gradient", (time.perf_counter() - clock) / 3))
    values = jax.random.normal(jax.random.key(1), (16, *trained.event_shape))
    few, many = (bd.FlowTransform(trained, num_steps=steps)(values) for steps in (FLOW_STEPS, MANY_STEPS))
    name = f"flow: rms difference of {FLOW_STEPS} steps from {MANY_STEPS}, over the rms of the field"
    return [*figures, Figure(name, float(np.std(few - many) / np.std(many)))]
