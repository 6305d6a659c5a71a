"""Runs of one algorithm over many observations with one compiled program, and comparisons of their posteriors."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import arviz_stats
import jax
import jax.numpy as jnp
import numpy as np

from bayesdiff.sampling.chains import run_chains
from bayesdiff.sampling.target import Target, build_target

PARAMETERS = ("H0", "omega_b", "sigma")


class Posterior(NamedTuple):
    """Draws of each parameter (chain, draw), their diagnostics, and what the algorithm reports of itself.

    Attributes:
        draws: by parameter.
        rhat: rank-normalised split R-hat, by parameter.
        ess: bulk effective sample size, by parameter.
        divergences: number of divergent iterations after the warm-up.
        attributes: of the algorithm, e.g. the surrogate's acceptance.
        seconds: of the whole run, without compiling.
        compile_seconds: spent on compiling.
    """

    draws: dict[str, np.ndarray]
    rhat: dict[str, float]
    ess: dict[str, float]
    divergences: int
    attributes: dict[str, Any]
    seconds: float
    compile_seconds: float

    def mean(self, name: str) -> float:
        """Posterior mean of a parameter."""
        return float(self.draws[name].mean())

    def sd(self, name: str) -> float:
        """Posterior standard deviation of a parameter."""
        return float(self.draws[name].std(ddof=1))


class Runner:
    """An algorithm on one model, for any number of observations of one shape."""

    def __init__(
        self,
        model: Callable,
        algorithm: Any,
        num_chains: int = 4,
        num_samples: int = 1000,
        names: tuple[str, ...] = PARAMETERS,
    ):
        self.model, self.algorithm, self.names = model, algorithm, names
        self.num_chains, self.num_samples = num_chains, num_samples
        self._target: Target | None = None

    def __call__(self, key: jax.Array, y: Any) -> Posterior:
        """Posterior of one observation."""
        y = jnp.asarray(y)
        target_key, prepare_key, run_key = jax.random.split(key, 3)
        if self._target is None:
            self._target = build_target(target_key, self.model, (y,))
        else:
            self._target = self._target.with_data(target_key, y)
        clock = time.perf_counter()
        prepared = self.algorithm.prepare(prepare_key, self._target, self.num_chains, False)
        run = run_chains(run_key, prepared, self.num_chains, self.num_samples, progress=False)
        seconds = time.perf_counter() - clock - run.compile_seconds
        draws = {name: run.posterior[name] for name in self.names}
        return Posterior(
            draws=draws,
            rhat={name: float(arviz_stats.rhat(x)) for name, x in draws.items()},
            ess={name: float(arviz_stats.ess(x)) for name, x in draws.items()},
            divergences=int(np.sum(run.sample_stats["diverging"])),
            attributes=dict(prepared.attributes),
            seconds=seconds,
            compile_seconds=run.compile_seconds,
        )


def disagreement(a: Posterior, b: Posterior) -> tuple[float, float]:
    """Largest difference of means and of standard deviations over the parameters, in Monte Carlo standard errors."""
    means, deviations = [], []
    for name in a.draws:
        errors = [_monte_carlo_errors(p.draws[name]) for p in (a, b)]
        means.append(abs(a.mean(name) - b.mean(name)) / np.hypot(errors[0][0], errors[1][0]))
        deviations.append(abs(a.sd(name) - b.sd(name)) / np.hypot(errors[0][1], errors[1][1]))
    return max(means), max(deviations)


def _monte_carlo_errors(draws: np.ndarray) -> tuple[float, float]:
    mean = float(arviz_stats.mcse(draws, method="mean"))
    deviation = float(arviz_stats.mcse(draws, method="sd"))
    return mean, deviation
