"""Log densities of a diffusion model, as interchangeable estimators.

Each estimator is a function (model, y, s, context) -> log p(y | s, context), the density of y = x + s Sigma^(1/2) n for
one field, deterministic and differentiable in s and context: whatever is random in it is fixed by its key. The density
of z_t follows as log p_t(z) = log p(z / alpha | s) - d log alpha.

Write r(y, s) = s Sigma^(1/2) score (Sigma^(-1/2) (D - y) / s), v = s'^2 - s^2 and y' = y + v^(1/2) Sigma^(1/2) n for
the field at a higher noise level s'. With d tau = d log s':

* :class:`ProbabilityFlow`: log p(y | s) = log p_1(u_1) + integral of div(du/dtau) d tau - log det G^(1/2), along the
  flow of :mod:`bayesdiff.diffusion.flow` in the whitened field u (Song et al. 2021, arXiv:2011.13456, eq. 39).
* :class:`Elbo`: log p(y | s) >= E log p_1(y_1) - integral of E[ |r|^2 + 2 kappa r.n ] d tau, kappa = s' / v^(1/2) (Song
  et al. 2021, arXiv:2101.09258, theorem 3; Kingma et al. 2021, arXiv:2107.00630). The bound is tight for an exact
  denoiser. Applied to the Gaussian twin as well, whose density is known, it gives
  log p >= log p_twin - integral of E[ |r|^2 - |r_twin|^2 + 2 kappa (r - r_twin).n ] d tau,
  which has no variance where model and twin agree.

Noise is fixed, stratified in time and antithetic: the 1 / v^(1/2) then cancels between n and -n, and differences
between parameters are far more precise than values, which is what an HMC run or a grid uses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import diffrax
import jax
import jax.numpy as jnp

from bayesdiff.diffusion.denoiser import GaussianDenoiser, is_gaussian
from bayesdiff.diffusion.elbo import Elbo
from bayesdiff.diffusion.estimate import Estimate, LogDensity
from bayesdiff.diffusion.flow import integrate, reference_of, velocity, with_divergence
from bayesdiff.diffusion.model import DiffusionModel
from bayesdiff.diffusion.sums import accurate_sum


def best_log_density(model: DiffusionModel) -> LogDensity:
    """The closed form where the denoiser has one, else the bound with the twin as reference."""
    return Exact() if is_gaussian(model.denoiser) else Elbo()


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Exact:
    """Closed-form log density of a Gaussian field, log N(y; mu, P + s^2 S)."""

    def __call__(self, model: DiffusionModel, y: jax.Array, s: jax.Array, context: jax.Array) -> jax.Array:
        """Density log p(y | s, context)."""
        if not is_gaussian(model.denoiser):
            raise ValueError(f"Exact needs a GaussianDenoiser, got {type(model.denoiser).__name__}; use Elbo()")
        gaussian: Any = model.twin_at(context)
        return gaussian.log_density(y, s, model.noise_power(context))

    def estimate(self, model: DiffusionModel, y: jax.Array, s: jax.Array, context: jax.Array) -> Estimate:
        """The value, without error."""
        return Estimate(self(model, y, s, context), jnp.zeros(()))


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Twin:
    """Closed-form log density of the model's twin, whatever the denoiser: the reference of a surrogate.

    Attributes:
        log_amplitudes: log factors by which the twin's power is multiplied; the density is averaged over them, so that
            a field brighter or fainter than the mean is not surprising. Shape (A,).
        exponent: power to which the averaged density is raised. A Gaussian field of the mean spectrum is far surer of
            the parameters than the learned prior, and sure of the wrong ones; below one it is a broad guess.
    """

    log_amplitudes: jax.Array
    exponent: float | jax.Array = 1.0

    def __call__(self, model: DiffusionModel, y: jax.Array, s: jax.Array, context: jax.Array) -> jax.Array:
        """Log of the mean over amplitudes of N(y; mu, A P + s^2 S), times the exponent."""
        twin, noise_power = model.twin_at(context), model.noise_power(context)
        if twin is None:
            raise ValueError("the denoiser of this model knows no Gaussian twin")
        densities = jax.vmap(
            lambda a: GaussianDenoiser(jnp.exp(a) * twin.power, twin.mean).log_density(y, s, noise_power)
        )
        mean = jax.scipy.special.logsumexp(densities(self.log_amplitudes)) - jnp.log(len(self.log_amplitudes))
        return self.exponent * mean

    def estimate(self, model: DiffusionModel, y: jax.Array, s: jax.Array, context: jax.Array) -> Estimate:
        """The value, without error."""
        return Estimate(self(model, y, s, context), jnp.zeros(()))


class Tempered:
    """Another estimator's log density times an exponent: a power likelihood.

    A learned density whose errors are alike at all pixels is too sure of its parameters. An exponent below one, chosen
    so that the truths of simulations are as probable as can be (:func:`bayesdiff.calibration.fit_exponent`), makes its
    posterior as wide as its errors (Syring & Martin 2019, arXiv:1509.00922). Not a density of the field any more: no
    evidence, no comparison of models.

    Args:
        log_density: the estimator.
        exponent: between 0 and 1.

    Raises:
        ValueError: for another exponent.
    """

    def __init__(self, log_density: LogDensity, exponent: float):
        if not 0.0 < exponent <= 1.0:
            raise ValueError(f"exponent must lie between 0 and 1, got {exponent}")
        self.log_density, self.exponent = log_density, float(exponent)

    def __repr__(self) -> str:
        return f"Tempered({self.log_density!r}, exponent={self.exponent:g})"

    def __call__(self, model: DiffusionModel, y: jax.Array, s: jax.Array, context: jax.Array) -> jax.Array:
        """The exponent times the log density."""
        return self.exponent * self.log_density(model, y, s, context)

    def estimate(self, model: DiffusionModel, y: jax.Array, s: jax.Array, context: jax.Array) -> Estimate:
        """The value and its standard error."""
        value, error = self.log_density.estimate(model, y, s, context)
        return Estimate(self.exponent * value, self.exponent * error)


class ProbabilityFlow:
    """Log density by the change of variables along the probability flow.

    Args:
        divergence: ``"exact"`` differentiates along every pixel (for small fields); ``"hutchinson"`` uses fixed random
            probes.
        num_steps: steps in log s of the solver, two denoiser evaluations each with the default Heun.
        num_probes: Hutchinson probes.
        key: random key or seed of the probes.
        reference: Gaussian whose whitened field the flow is integrated in; the model's twin by default.
        solver: a diffrax solver; Heun's method by default.

    Raises:
        ValueError: if ``divergence`` is neither of the two.
    """

    def __init__(
        self,
        divergence: str = "hutchinson",
        num_steps: int = 24,
        num_probes: int = 4,
        key: jax.Array | int = 0,
        reference: GaussianDenoiser | None = None,
        solver: diffrax.AbstractSolver | None = None,
    ):
        if divergence not in ("exact", "hutchinson"):
            raise ValueError(f'divergence must be "exact" or "hutchinson", got {divergence!r}')
        self.divergence, self.num_steps, self.num_probes = divergence, num_steps, num_probes
        self.key = jax.random.key(key) if isinstance(key, int) else key
        self.reference, self.solver = reference, solver

    def __repr__(self) -> str:
        return f"ProbabilityFlow({self.divergence!r}, num_steps={self.num_steps}, num_probes={self.num_probes})"

    def __call__(self, model: DiffusionModel, y: jax.Array, s: jax.Array, context: jax.Array) -> jax.Array:
        """Density log p(y | s, context)."""
        return self.estimate(model, y, s, context).value

    def estimate(self, model: DiffusionModel, y: jax.Array, s: jax.Array, context: jax.Array) -> Estimate:
        """The value and the standard error of the divergence over the probes."""
        reference = reference_of(model, self.reference, context)
        noise_power = model.noise_power(context)
        field = velocity(model.denoiser, reference, noise_power, context)

        def rates(tau, state):
            u, _ = state
            return with_divergence(lambda v: field(tau, v), u, probes)

        num = 1 if self.divergence == "exact" else self.num_probes
        u = reference.whiten(y, s, noise_power)
        probes = None
        if self.divergence == "hutchinson":
            probes = jax.random.rademacher(self.key, (num, *u.shape), dtype=u.dtype)
        end = jnp.log(jnp.asarray(model.noise_levels()[1], dtype=u.dtype))
        start = jnp.log(jnp.asarray(s, dtype=u.dtype))
        final, divergences = integrate(rates, (u, jnp.zeros(num, u.dtype)), start, end, self.num_steps, self.solver)
        total = jnp.broadcast_to(reference.levels(s, noise_power).total, y.shape)
        log_base = -0.5 * accurate_sum(final**2 + jnp.log(2.0 * jnp.pi * total))
        value = log_base + jnp.mean(divergences)
        error = jnp.std(divergences, ddof=1) / jnp.sqrt(num) if num > 1 else jnp.zeros(())
        return Estimate(value, error)


jax.tree_util.register_pytree_node(
    ProbabilityFlow,
    lambda e: ((e.key, e.reference), (e.divergence, e.num_steps, e.num_probes, e.solver)),
    lambda aux, children: ProbabilityFlow(*aux[:3], children[0], children[1], aux[3]),
)
jax.tree_util.register_pytree_node(
    Tempered, lambda e: ((e.log_density,), e.exponent), lambda aux, children: Tempered(children[0], aux)
)
