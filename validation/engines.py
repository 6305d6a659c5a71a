"""Every engine on the analytic twin: five observations, one posterior.

NUTS on the closed form is the reference; NUTS on the bound and on the flow, the surrogate and Gibbs must agree with
it in the mean and standard deviation of every parameter. The bound and the flow use the twin as reference, their
default, and run their full computation; :mod:`validation.densities` tests them without that help.
"""

from __future__ import annotations

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

import bayesdiff as bd
from models.dust_cmb.model import PRIOR_BOUNDS, make_model
from models.linear_gaussian import make_twin
from validation.chains import PARAMETERS, Runner, disagreement
from validation.figures import Figure, below

SIZE = 32
NUM_OBSERVATIONS = 5


def run(num_observations: int = NUM_OBSERVATIONS) -> list[Figure]:
    """All figures of this study."""
    with jax.enable_x64(True):
        return _run(num_observations)


def _run(num_observations: int) -> list[Figure]:
    twin = make_twin(SIZE)
    bound = bd.Elbo(num_times=8, num_noise=1)
    flow = bd.ProbabilityFlow(num_steps=4, num_probes=1)
    runners = {
        "NUTS, closed form": Runner(make_model(twin), bd.NUTS(), num_samples=2000),
        "NUTS, Elbo": Runner(_with(twin, bound), bd.NUTS(), num_samples=1000),
        "NUTS, ProbabilityFlow": Runner(_with(twin, flow), bd.NUTS(), num_samples=1000),
        "MarginalSurrogate": Runner(make_model(twin), bd.MarginalSurrogate(log_density=bound), num_samples=2000),
        "GibbsDiffusion": Runner(make_model(twin), bd.GibbsDiffusion(num_diffusion_steps=4), num_samples=4000),
    }
    rng = np.random.default_rng(21)
    table = Table("observation", "engine", *PARAMETERS, "largest R-hat", "smallest ESS", "seconds")
    worst = {name: [0.0, 0.0] for name in runners}
    worst_rhat = 0.0
    for index in range(num_observations):
        truth = {name: rng.uniform(*bounds) for name, bounds in PRIOR_BOUNDS.items()}
        mixture = bd.NoisyDiffusion(twin, truth["sigma"], (truth["H0"], truth["omega_b"]))
        y = mixture.sample(jax.random.key(100 + index))
        reference = None
        for engine, runner in runners.items():
            posterior = runner(jax.random.key(200 + index), y)
            reference = posterior if reference is None else reference
            worst_rhat = max(worst_rhat, *posterior.rhat.values())
            if posterior is not reference:
                worst[engine] = [
                    max(pair) for pair in zip(worst[engine], disagreement(reference, posterior), strict=True)
                ]
            cells = [f"{posterior.mean(name):.4g} ± {posterior.sd(name):.3g}" for name in PARAMETERS]
            rhat, ess = max(posterior.rhat.values()), min(posterior.ess.values())
            table.add_row(str(index), engine, *cells, f"{rhat:.4f}", f"{ess:.0f}", f"{posterior.seconds:.1f}")
    Console(width=150).print(table)
    figures = []
    for engine, (mean, deviation) in worst.items():
        if engine != "NUTS, closed form":
            figures.append(below(f"{engine}: largest difference of a mean [Monte Carlo s.e.]", mean, 3.0))
            figures.append(
                below(f"{engine}: largest difference of a standard deviation [Monte Carlo s.e.]", deviation, 3.0)
            )
    return [*figures, below("largest R-hat of all runs", worst_rhat, 1.01), *shifts(twin)]


def shifts(twin: bd.DiffusionModel, sigma: float = 0.2) -> list[Figure]:
    """What Gibbs gains by steps that take the field along, where the field hides most of the noise."""
    y = bd.NoisyDiffusion(twin, sigma, (67.4, 0.0224)).sample(jax.random.key(300))
    figures, rates = [], []
    for label, algorithm in (("without", bd.GibbsDiffusion(num_shifts=0)), ("with", bd.GibbsDiffusion())):
        posterior = Runner(make_model(twin), algorithm, num_samples=1000)(jax.random.key(301), y)
        ess = min(posterior.ess.values())
        rates.append(ess / posterior.seconds)
        name = (
            f"GibbsDiffusion at sigma = {sigma:g}: smallest ESS of 4,000 draws, {label} steps that take the field along"
        )
        figures.append(Figure(name, ess))
    return [*figures, Figure("the same per second, with over without", rates[1] / rates[0])]


def _with(twin: bd.DiffusionModel, estimator):
    from bayesdiff.sampling.diffusion_sites import with_log_density

    return with_log_density(make_model(twin), estimator)
