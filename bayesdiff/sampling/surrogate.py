"""The corrected marginal: an interpolated correction to the closed-form likelihood of the Gaussian twin.

For parameters theta of low dimension, log p(y | theta) = c log p_twin(y | theta) + Delta(theta). The first term is in
closed form; Delta costs hundreds of network evaluations per point, but it is smooth. The twin of a prior that does not
depend on theta, whose power has a free amplitude averaged over a small grid, is a first guess only, and too sure of
itself: its likelihood of a field that is not Gaussian varies several times as much as the learned one and has its
maximum elsewhere. Hence c = 0.2. The twin of a conditional prior knows how mean and power depend on theta, and stands
as it is. So

1. sample the posterior with the twin's likelihood and choose a design over its bulk;
2. evaluate the model's own log density there, with common noise, and interpolate Delta by a Gaussian process, in
   coordinates that are smooth up to the edges of the prior; what lies far below the best point is followed loosely,
   for a first guess can be off by thousands of nat;
3. sample the corrected posterior with NUTS, without the network, take fresh draws of it and evaluate the density there;
4. accept if the surrogate, its mean error removed, is right at these draws to ``max_rms`` nat, the process is sure of
   itself at nearly all draws, and the design has enough points in the bulk. The draws and those of which it is least
   sure join the design; if it was not accepted, go back to 2.

The chains sample the expectation of the density under the process, exp(mean + deviation^2 / 2) with the deviation
capped, so that what is plausible but unexplored is visited and joins the design; where the deviation is extreme the
density is lowered instead. Once a surrogate is accepted there is next to no mass where the process is not sure, and the
density is lowered there from 1 nat on: a corner that the short runs missed would hold the chains up. A run that is not
accepted says so in its attributes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from bayesdiff.diffusion.densities import Elbo, LogDensity, Twin

from .chains import Kernel, Prepared, explore
from .coordinates import Coordinates, coordinates_of
from .design import interpolate, least_sure, spread_out
from .diffusion_sites import observed_diffusions, require_noisy_sites, with_log_density
from .gaussian_process import Interpolant, nothing
from .layout import Layout
from .nuts import NUTS, nuts_kernel
from .programs import compile_once
from .progress import TaskProgress
from .repeated import several_steps
from .start import Start, find_start
from .start import evaluate as evaluate_start
from .target import BoundModel, Data, Density, Position, Target

MAX_DIMENSION = 8
LOG_AMPLITUDES = (-1.5, -0.75, 0.0, 0.75, 1.5)
TWIN_EXPONENT = 0.2
_ROUND_DRAWS = 150
# An unfinished surrogate can be of any shape: its trajectories are kept short.
_EXPLORER = NUTS(num_warmup=150, max_tree_depth=5)
# In nat: largest deviation that raises the density, and the deviation beyond which it is lowered, so many times.
_MOST_OPTIMISTIC, _FAR, _PENALTY = 2.0, 6.0, 3.0
_UNSURE = 1.0


@dataclass(frozen=True)
class MarginalSurrogate:
    """NUTS on the twin's likelihood with an interpolated correction.

    Attributes:
        log_density: estimator of the marginal density that is interpolated; by default the bound with the twin as
            reference and 32 antithetic pairs of noise.
        num_design: design points over the twin's posterior.
        num_test: fresh draws of each acceptance test, which join the design when it fails, as do half as many of those
            that the process is least sure of.
        max_rounds: acceptance tests before giving up.
        min_bulk: design points within ``bulk_depth`` nat of the maximum that acceptance requires.
        bulk_depth: see ``min_bulk``.
        max_rms: largest error of the surrogate accepted, in nat.
        twin_exponent: power to which the twin's likelihood is raised, c; by default 1 for a conditional prior, whose
            twin knows the parameters, and 0.2 otherwise. Smaller is safer where the twin is far too sure.
        max_unsure: largest share of draws accepted at which the process is not sure of itself to 1 nat.
        nuts: the sampler of the result.
        steps_per_draw: its iterations per draw, none of which asks the network.
    """

    log_density: LogDensity | None = None
    num_design: int = 24
    num_test: int = 16
    max_rounds: int = 8
    min_bulk: int = 24
    bulk_depth: float = 5.0
    max_rms: float = 0.3
    max_unsure: float = 0.01
    twin_exponent: float | None = None
    nuts: NUTS = NUTS(num_warmup=300, target_acceptance=0.95)
    steps_per_draw: int = 4

    def __post_init__(self) -> None:
        if self.num_test < 10:
            raise ValueError(f"the acceptance test needs at least 10 draws, got num_test={self.num_test}")
        if min(self.num_design, self.max_rounds, self.steps_per_draw) < 1 or min(self.max_rms, self.max_unsure) <= 0:
            raise ValueError("num_design, max_rounds, steps_per_draw, max_rms and max_unsure must be positive")

    @property
    def capacity(self) -> int:
        """Most points that the design can have."""
        return self.num_design + (self.num_test + self.num_test // 2) * self.max_rounds

    def prepare(self, key: jax.Array, target: Target, num_chains: int, progress: bool) -> Prepared:
        """Fit the surrogate, then hand its density to NUTS.

        Raises:
            ValueError: the model observes no diffusion, its denoiser has no twin, or it has too many parameters.
        """
        sites = observed_diffusions(key, target) or require_noisy_sites(key, target, "MarginalSurrogate")
        for name, fn in sites.items():
            if fn.model.twin is None:
                raise ValueError(
                    f"MarginalSurrogate needs a denoiser with a Gaussian twin; that of site {name!r} has none"
                )
        size = sum(int(np.prod(shape)) for shape in target.latent_shapes.values())
        if size > MAX_DIMENSION:
            raise ValueError(
                f"MarginalSurrogate takes at most {MAX_DIMENSION} dimensions, the model has {size} latent values"
            )
        programs = self._programs(key, target)
        with TaskProgress("surrogate", self.max_rounds + 1, progress) as bar:
            attributes, data, positions = _refine(self, key, programs, target, num_chains, bar)
        corrected = target.with_density(programs.corrected, data)
        return Prepared(self._kernel(programs, target), corrected, attributes, positions)

    def outline(self, target: Target, num_chains: int) -> Prepared:
        """What `prepare` returns, with an empty surrogate: a run that continues puts the one it kept in its place."""
        del num_chains
        programs = self._programs(jax.random.key(0), target)
        size = sum(int(np.prod(shape)) for shape in target.latent_shapes.values())
        data = (target.data, nothing(size, self.capacity), jnp.asarray(_UNSURE, dtype=float))
        return Prepared(self._kernel(programs, target), target.with_density(programs.corrected, data))

    def _programs(self, key: jax.Array, target: Target) -> _Densities:
        log_density = self.log_density or _default_log_density()
        conditional = any(fn.model.prior_depends_on_context for fn in observed_diffusions(key, target).values())
        reference = _reference(conditional, self.twin_exponent)
        return _programs(target.functions, reference, log_density, coordinates_of(key, target))

    def _kernel(self, densities: _Densities, target: Target) -> Kernel:
        kernel = nuts_kernel(self.nuts, densities.corrected, Layout.of(target.latent_shapes))
        return several_steps(kernel, self.steps_per_draw)


class _Densities(NamedTuple):
    """Log joint densities of (position, data): reference, full, and corrected (data, the fit, and what is far)."""

    reference: Density
    full: Density
    corrected: Density
    coordinates: Coordinates


@lru_cache(maxsize=1)
def _default_log_density() -> LogDensity:
    return Elbo(num_times=32, num_noise=1)


@lru_cache(maxsize=8)
def _reference(conditional: bool, exponent: float | None) -> LogDensity:
    if conditional:
        return Twin(np.zeros(1), 1.0 if exponent is None else exponent)  # pyright: ignore[reportArgumentType]
    amplitudes = np.array(LOG_AMPLITUDES)  # of no precision of its own: the same in float32 and float64
    return Twin(amplitudes, TWIN_EXPONENT if exponent is None else exponent)  # pyright: ignore[reportArgumentType]


@lru_cache(maxsize=16)
def _programs(
    functions: BoundModel, reference: LogDensity, log_density: LogDensity, coordinates: Coordinates
) -> _Densities:
    """The same functions for the same model, so that new data compile nothing."""
    twin = _functions_with(functions, reference)
    full = _functions_with(functions, log_density)

    def corrected(position: Position, data: Data) -> jax.Array:
        model_data, interpolant, far = data
        return twin.log_density(position, model_data) + _correction(interpolant, coordinates(position), far)

    return _Densities(twin.log_density, full.log_density, corrected, coordinates)


@lru_cache(maxsize=16)
def _locator(coordinates: Coordinates, unravel: Callable[[jax.Array], Position]) -> Callable[..., jax.Array]:
    """Coordinates of flattened positions (num, d); compiled once for all data sets of a model."""
    return jax.jit(jax.vmap(lambda flat: coordinates(unravel(flat))))


def _correction(interpolant: Interpolant, q: jax.Array, far: jax.Array) -> jax.Array:
    """What the surrogate adds to the twin's log density at coordinates (d,), less beyond the deviation ``far``."""
    mean, deviation = interpolant(q)
    return mean + 0.5 * jnp.minimum(deviation, _MOST_OPTIMISTIC) ** 2 - _PENALTY * jnp.maximum(deviation - far, 0.0)


def _functions_with(functions: BoundModel, log_density: LogDensity) -> BoundModel:
    return replace(functions, model=with_log_density(functions.model, log_density))


def _refine(
    settings: MarginalSurrogate, key: jax.Array, densities: _Densities, target: Target, num_chains: int, bar: Any
):
    """Rounds of fit, sample, test; returns attributes to keep, data of the corrected density, and where to start."""
    key_twin, key_pick, *round_keys = jax.random.split(key, 2 + settings.max_rounds)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key_pick)).ravel())
    position = target.functions.draw_prior(key_twin, target.data)
    size, unravel = len(ravel_pytree(position)[0]), ravel_pytree(position)[1]
    capacity = settings.capacity
    kernel = nuts_kernel(_EXPLORER, densities.corrected, Layout.of(target.latent_shapes))
    # Without a correction the corrected density is the twin's, and one compiled program samples both.
    far = jnp.asarray(_FAR, dtype=float)
    data: Data = (target.data, nothing(size, capacity), far)
    start, _ = find_start(key_twin, target.with_density(densities.corrected, data), num_chains)
    draws = _sample(kernel, key_twin, start, data)
    evaluate = partial(_evaluate, densities, unravel, target.data)
    locate = _locator(densities.coordinates, unravel)
    points = spread_out(rng, draws, settings.num_design, inflate=1.5)
    values, heights = evaluate(points)
    bar.advance()
    rms, unsure, bulk, number, current, accepted = np.inf, 1.0, 0, 0, None, False
    for number, round_key in enumerate(round_keys, start=1):
        current = interpolate(
            *(np.asarray(locate(x), dtype=np.float64) for x in (points, draws)), values, heights, capacity
        )
        data = (target.data, current.interpolant, far)
        best = points[np.argsort(-heights)[np.arange(num_chains) % len(points)]]
        start, _ = evaluate_start(densities.corrected, jax.vmap(unravel)(jnp.asarray(best)), data)
        draws = _sample(kernel, round_key, start, data)
        deviation = _deviations(current.interpolant, locate(draws))
        unsure = float(np.mean(deviation > _UNSURE))
        chosen = rng.choice(len(draws), settings.num_test, replace=False)
        fresh = draws[np.concatenate([chosen, least_sure(rng, deviation, settings.num_test // 2)])]
        fresh_values, fresh_heights = evaluate(fresh)
        predicted = np.asarray(jax.vmap(_correction, in_axes=(None, 0, None))(current.interpolant, locate(fresh), far))
        error = (predicted - fresh_values)[: settings.num_test]
        rms = float(np.sqrt(np.mean((error - error.mean()) ** 2)))
        top = max(heights.max(), fresh_heights.max())
        bulk = int(np.sum(heights > top - settings.bulk_depth))
        bar.advance()
        accepted = rms < settings.max_rms and bulk >= settings.min_bulk and unsure < settings.max_unsure
        if accepted or number < settings.max_rounds:
            points, values = np.concatenate([points, fresh]), np.concatenate([values, fresh_values])
            heights = np.concatenate([heights, fresh_heights])
        if accepted:
            # The points of the test have been paid for: with them the surrogate is better than the one that passed.
            design, others = (np.asarray(locate(x), dtype=np.float64) for x in (points, draws))
            current = interpolate(design, others, values, heights, capacity)
            break
    assert current is not None
    attributes = {
        "surrogate_converged": int(accepted),
        "surrogate_rms": rms,
        "surrogate_unsure": unsure,
        "surrogate_leave_one_out": float(np.sqrt(np.mean(current.leave_one_out**2))),
        "surrogate_evaluations": int(settings.num_design + number * (settings.num_test + settings.num_test // 2)),
        "surrogate_bulk_points": bulk,
        "surrogate_rounds": number,
    }
    if accepted:
        data = (target.data, current.interpolant, jnp.asarray(_UNSURE, dtype=float))
    positions = jax.vmap(unravel)(jnp.asarray(draws[rng.choice(len(draws), num_chains, replace=False)]))
    return attributes, data, positions


def _evaluate(densities: _Densities, unravel: Any, data: Data, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Delta and the full log density at design points (n, d), one after the other."""
    program, _ = compile_once(_difference, (densities.reference, densities.full), unravel(jnp.asarray(points[0])), data)
    pairs = np.array([np.asarray(program(unravel(jnp.asarray(point)), data)) for point in points], dtype=np.float64)
    if not np.isfinite(pairs).all():
        bad = points[~np.isfinite(pairs).all(axis=1)][0]
        raise ValueError(f"the marginal log density is not finite at the unconstrained parameters {bad}")
    return pairs[:, 0], pairs[:, 1]


def _difference(reference: Density, full: Density, position: Position, data: Data) -> jax.Array:
    whole = full(position, data)
    return jnp.stack([whole - reference(position, data), whole])


def _deviations(interpolant: Interpolant, q: jax.Array) -> np.ndarray:
    """Standard deviation of the process at coordinates (num, d)."""
    return np.asarray(jax.vmap(lambda q: interpolant(q)[1])(q))


def _sample(kernel: Kernel, key: jax.Array, start: Start, data: Data) -> np.ndarray:
    """A short run of the chains: flattened unconstrained draws, (num, d)."""
    positions = explore(key, kernel, start, data, _ROUND_DRAWS)
    flat = jax.vmap(jax.vmap(lambda q: ravel_pytree(q)[0]))(positions)
    return np.asarray(flat, dtype=np.float64).reshape(-1, flat.shape[-1])
