"""What an estimator of the cosmology of dark-matter fields is given, and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

import bayesdiff as bd
from bayesdiff.diffusion.densities import LogDensity
from models.density_fields.data import PARAMETER_BOUNDS
from models.density_fields.model import make_model, make_noisy_model

if TYPE_CHECKING:
    import xarray as xr

OF_TWO_PARAMETERS: dict[str, Any] = {"num_design": 16, "num_test": 10, "min_bulk": 12}
"""Settings of the surrogate that has no noise level to infer: half of its default points are enough."""
TEMPERED_TWIN = 0.02
"""Exponent of the twin where the likelihood itself is raised to one: alone it would be surer still."""


@dataclass(frozen=True, eq=False)
class Problem:
    """What every estimator is given.

    Attributes:
        prior: conditional prior of the field.
        y: one field (1, H, W), or several (num, 1, H, W).
        noisy: whether the fields are in white noise of unknown level.
        num_chains: chains.
        num_samples: draws of each.
        progress: whether to show progress bars.
    """

    prior: bd.DiffusionModel
    y: np.ndarray
    noisy: bool = False
    num_chains: int = 4
    num_samples: int = 1000
    progress: bool = False

    @property
    def num_fields(self) -> int:
        """Number of fields, whose log densities add up."""
        return len(self.y) if self.y.ndim == 4 else 1

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of what is inferred."""
        return (*PARAMETER_BOUNDS, "noise_level") if self.noisy else tuple(PARAMETER_BOUNDS)

    def model(self, log_density: LogDensity | None) -> Callable[..., Any]:
        """The NumPyro model with an estimator of the log density of a field."""
        return (make_noisy_model if self.noisy else make_model)(self.prior, log_density)

    def grid(self, num: int = 40, **settings: Any) -> bd.Grid:
        """A grid of ``num`` points along each parameter."""
        return bd.Grid(dict.fromkeys(self.parameters, num), **settings)

    def surrogate(self, log_density: LogDensity) -> bd.MarginalSurrogate:
        """NUTS on the twin with the interpolated correction to ``log_density``."""
        settings: dict[str, Any] = {} if self.noisy else dict(OF_TWO_PARAMETERS)
        if isinstance(log_density, bd.Tempered):
            settings["twin_exponent"] = TEMPERED_TWIN
        return bd.MarginalSurrogate(log_density, **settings)

    def sample(
        self,
        key: jax.Array,
        model: Callable[..., Any],
        algorithm: Any,
        store: Path | None = None,
        data: Any = None,
    ) -> xr.DataTree:
        """``bd.sample`` on these fields, or on ``data`` made of them."""
        return bd.sample(
            key,
            model,
            self.y if data is None else data,
            algorithm=algorithm,
            num_chains=self.num_chains,
            num_samples=self.num_samples,
            store=store,
            progress=self.progress,
        )

    @cached_property
    def twin(self) -> xr.DataTree:
        """The posterior of the twin: a Gaussian field of the emulated mean and power, in closed form."""
        twin = replace(self, prior=replace(self.prior, denoiser=self.prior.twin), progress=False)
        return twin.sample(jax.random.key(1), twin.model(bd.Exact()), self.grid(max_evaluations=20_000))


class Outcome(NamedTuple):
    """The posterior of an estimator.

    Attributes:
        draws: Omega_m and sigma_8, with noise noise_level, (chain, draw) each.
        evaluations: of the network.
        remark: what a reader has to know, empty where all is well.
    """

    draws: dict[str, np.ndarray]
    evaluations: int
    remark: str = ""


class Estimator(NamedTuple):
    """A way to the posterior.

    Attributes:
        label: what it is called in a report.
        run: from key and problem to the outcome.
        in_noise: whether it knows of noise of unknown level.
        by_default: whether it is run unless asked for others.
    """

    label: str
    run: Callable[[jax.Array, Problem], Outcome]
    in_noise: bool = False
    by_default: bool = True


def cost_of(log_density: LogDensity) -> int:
    """Network evaluations of one value of an estimator."""
    if isinstance(log_density, bd.Tempered):
        return cost_of(log_density.log_density)
    if isinstance(log_density, bd.DiscreteBound):
        return log_density.num_evaluations
    if isinstance(log_density, bd.Elbo):
        return 2 * log_density.num_times * log_density.num_noise
    if isinstance(log_density, bd.ProbabilityFlow):
        return 2 * log_density.num_steps * (1 + log_density.num_probes)
    return 0


def label_of(log_density: LogDensity) -> str:
    """What the recommended estimator is called in a report."""
    if isinstance(log_density, bd.Tempered):
        return f"bound of exponent {log_density.exponent:.2g}"
    return "closed form" if isinstance(log_density, bd.Exact) else "bound with the twin as reference"


def evaluations_of(data: xr.DataTree, log_density: LogDensity, num_fields: int) -> int:
    """Network evaluations that a result took; of chains on the network itself those of the draws, without warm-up."""
    if "surrogate_evaluations" in data.attrs:
        number = int(data.attrs["surrogate_evaluations"])
    elif "num_evaluations" in data.attrs:
        number = int(data.attrs["num_evaluations"])
    else:
        number = int(data["sample_stats"].to_dataset()["n_steps"].sum())
    return number * cost_of(log_density) * num_fields


def draws_of(data: xr.DataTree, parameters: Sequence[str]) -> dict[str, np.ndarray]:
    """Draws (chain, draw) of the parameters of a result."""
    posterior = data["posterior"].to_dataset()
    return {name: posterior[name].transpose("chain", "draw").values for name in parameters}


def outcome_of(data: xr.DataTree, log_density: LogDensity, problem: Problem) -> Outcome:
    """The outcome of a run of ``bd.sample``, with a remark where it did not converge."""
    remark = ""
    if not int(data.attrs.get("surrogate_converged", 1)):
        remark = f"its surrogate failed the acceptance test ({float(data.attrs['surrogate_rms']):.2g} nat rms)"
    elif not int(data.attrs.get("grid_converged", 1)):
        remark = f"its grid is too coarse for it (error {float(data.attrs['marginal_error']):.2g})"
    evaluations = evaluations_of(data, log_density, problem.num_fields)
    return Outcome(draws_of(data, problem.parameters), evaluations, remark)
