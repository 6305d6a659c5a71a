"""Inference with the shipped prior on 40 mixtures of held-out dust with known truth, parameters from the prior.

Every mixture is kept on disk as it is done, so that an interrupted study continues. ``cross_check`` runs Gibbs on the
first five.
"""

from __future__ import annotations

import json
from pathlib import Path

import arviz_stats
import jax
import numpy as np
from rich.console import Console
from rich.table import Table

import bayesdiff as bd
from models.dust_cmb.data import held_out_patches
from models.dust_cmb.model import PRIOR_BOUNDS, make_model
from models.dust_cmb.observation import mix
from validation.chains import PARAMETERS, Posterior, Runner, disagreement
from validation.figures import RESULTS, Figure, below, between

NUM_MIXTURES = 40
NUM_CROSS_CHECK = 5


def observations(model: bd.DiffusionModel, num: int = NUM_MIXTURES) -> list[tuple[dict[str, float], np.ndarray]]:
    """Truth and mixture of each case; the first ones do not depend on ``num``."""
    cases = []
    for index, dust in enumerate(held_out_patches(NUM_MIXTURES)[:num]):
        rng = np.random.default_rng([31, index])
        truth = {name: float(rng.uniform(*bounds)) for name, bounds in PRIOR_BOUNDS.items()}
        observation = mix(jax.random.key(1000 + index), dust, model, truth["H0"], truth["omega_b"], truth["sigma"])
        cases.append((truth, np.asarray(observation.y)))
    return cases


def run(num: int = NUM_MIXTURES, folder: Path = RESULTS / "mixtures") -> list[Figure]:
    """z-scores, convergence and widths over the mixtures."""
    model = bd.load_pretrained("dust-cmb-64")
    runner = Runner(make_model(model), bd.MarginalSurrogate(), num_samples=1000)
    rows = []
    for index, (truth, y) in enumerate(observations(model, num)):
        path = folder / f"surrogate_{index:02d}.npz"
        posterior = kept(path) or _keep(path, runner(jax.random.key(2000 + index), y))
        rows.append(_row(index, truth, posterior))
        print(json.dumps(rows[-1]), flush=True)
    return _figures(rows)


def cross_check(folder: Path = RESULTS / "mixtures") -> list[Figure]:
    """GibbsDiffusion against MarginalSurrogate on the first five mixtures, and their effective draws per second."""
    model = bd.load_pretrained("dust-cmb-64")
    surrogate = Runner(make_model(model), bd.MarginalSurrogate(), num_samples=1000)
    gibbs = Runner(make_model(model), bd.GibbsDiffusion(num_warmup=60), num_samples=300)
    table = Table("mixture", "engine", *PARAMETERS, "R-hat", "smallest ESS", "seconds")
    worst_mean, worst_sd, ratios, shifts, spreads = 0.0, 0.0, [], [], []
    for index, (_, y) in enumerate(observations(model, NUM_CROSS_CHECK)):
        pair = []
        for engine, runner in (("surrogate", surrogate), ("gibbs", gibbs)):
            path = folder / f"{engine}_{index:02d}.npz"
            posterior = kept(path) or _keep(path, runner(jax.random.key(2000 + index), y))
            cells = [f"{posterior.mean(name):.4g} ± {posterior.sd(name):.3g}" for name in PARAMETERS]
            rhat, ess = max(posterior.rhat.values()), min(posterior.ess.values())
            table.add_row(str(index), engine, *cells, f"{rhat:.3f}", f"{ess:.0f}", f"{posterior.seconds:.0f}")
            pair.append(posterior)
        mean, sd = disagreement(*pair)
        worst_mean, worst_sd = max(worst_mean, mean), max(worst_sd, sd)
        shifts += [abs(pair[0].mean(name) - pair[1].mean(name)) / pair[0].sd(name) for name in PARAMETERS]
        spreads += [pair[1].sd(name) / pair[0].sd(name) for name in PARAMETERS]
        rates = [min(p.ess.values()) / p.seconds for p in pair]
        ratios.append(rates[0] / rates[1])
    Console(width=150).print(table)
    return [
        below("surrogate and Gibbs: largest difference of a mean [Monte Carlo s.e.]", worst_mean, 3.0),
        below("surrogate and Gibbs: largest difference of a standard deviation [Monte Carlo s.e.]", worst_sd, 3.0),
        Figure(
            f"difference of a mean in posterior standard deviations, median of {len(shifts)}", float(np.median(shifts))
        ),
        Figure(f"difference of a mean in posterior standard deviations, largest of {len(shifts)}", max(shifts)),
        Figure("standard deviation, Gibbs over surrogate, smallest", min(spreads)),
        Figure("standard deviation, Gibbs over surrogate, largest", max(spreads)),
        Figure("ESS per second, surrogate over Gibbs, median", float(np.median(ratios))),
    ]


def _row(index: int, truth: dict[str, float], posterior: Posterior) -> dict:
    return {
        "mixture": index,
        "truth": truth,
        "z": {name: (posterior.mean(name) - truth[name]) / posterior.sd(name) for name in PARAMETERS},
        "rank": {name: float((posterior.draws[name] < truth[name]).mean()) for name in PARAMETERS},
        "sd": {name: posterior.sd(name) for name in PARAMETERS},
        "rhat": max(posterior.rhat.values()),
        "ess": min(posterior.ess.values()),
        "seconds": posterior.seconds,
        **{key: posterior.attributes[key] for key in sorted(posterior.attributes)},
    }


def _figures(rows: list[dict]) -> list[Figure]:
    figures = []
    accepted = np.array([bool(row["surrogate_converged"]) for row in rows])
    for name in PARAMETERS:
        z = np.array([row["z"][name] for row in rows])
        rank = np.array([row["rank"][name] for row in rows])
        figures.append(between(f"{name}: mean |z| of {len(rows)} mixtures", float(np.abs(z).mean()), 0.6, 1.05))
        figures.append(Figure(f"{name}: the same of accepted surrogates", float(np.abs(z[accepted]).mean())))
        figures.append(Figure(f"{name}: mean z", float(z.mean())))
        for level in (0.68, 0.95):
            inside = np.mean(np.abs(rank - 0.5) < 0.5 * level)
            figures.append(Figure(f"{name}: truths in the central {level:.0%} interval", float(inside)))
        figures.append(
            Figure(f"{name}: median posterior standard deviation", float(np.median([r["sd"][name] for r in rows])))
        )
    return [
        *figures,
        below("largest R-hat", max(row["rhat"] for row in rows), 1.01),
        Figure("smallest ESS", min(row["ess"] for row in rows)),
        Figure("surrogates accepted", f"{accepted.sum()} of {len(rows)}"),
        Figure(
            "median acceptance-test error of the surrogate [nat]", float(np.median([r["surrogate_rms"] for r in rows]))
        ),
        Figure(
            "median leave-one-out error of the surrogate [nat]",
            float(np.median([r["surrogate_leave_one_out"] for r in rows])),
        ),
        Figure("median density evaluations", float(np.median([row["surrogate_evaluations"] for row in rows]))),
        Figure("median seconds of a run, without compiling", float(np.median([row["seconds"] for row in rows]))),
    ]


def _keep(path: Path, posterior: Posterior) -> Posterior:
    path.parent.mkdir(parents=True, exist_ok=True)
    report = {"attributes": posterior.attributes, "seconds": posterior.seconds, "divergences": posterior.divergences}
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, report=np.array(json.dumps(report)), **posterior.draws)  # pyright: ignore[reportArgumentType]
    partial.rename(path)
    return posterior


def kept(path: Path) -> Posterior | None:
    """A posterior that an earlier run of the study left, or None."""
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as file:
        draws = {name: file[name] for name in PARAMETERS}
        report = json.loads(str(file["report"]))
    return Posterior(
        draws=draws,
        rhat={name: float(arviz_stats.rhat(x)) for name, x in draws.items()},
        ess={name: float(arviz_stats.ess(x)) for name, x in draws.items()},
        compile_seconds=0.0,
        **report,
    )
