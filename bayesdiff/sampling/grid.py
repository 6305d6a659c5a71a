"""The posterior on a product grid of up to four parameters: its density, evidence, marginals and exact draws.

The density is that of the sites' own values, prior times likelihood, without the Jacobian of the unconstrained space
in which chains move. ``adaptive=True`` evaluates it where its mass lies, by the refinement of
:mod:`~bayesdiff.sampling.grid_refinement`, and interpolates it onto the points asked for; they crowd where the
marginals are high. ``adaptive=False`` evaluates it at all of them, evenly spaced. Either way the log density is a
polynomial on each of many cells, and the evidence, the marginals, the regions and the draws are those of that one
function. Draws are independent: there is no warm-up and no autocorrelation.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import handlers
from numpyro.infer.util import compute_log_probs

from .grid_axes import Axis, read_axes
from .grid_cells import NODES, Cells, from_grid, resolve
from .grid_draws import draw
from .grid_refinement import FIRST_CELLS, NUM_CHECK, Budget, Refinement, refine_and_check, remaining_error
from .grid_summary import place_points
from .programs import compile_once
from .progress import TaskProgress
from .target import BoundModel, Data, Target

if TYPE_CHECKING:
    import xarray as xr

# A density at a chosen bound above this part of its highest value says that the bound cuts the posterior.
_CUT = 0.01
# Relative error of the integral of a plain grid's polynomials.
_SUM_ERROR = 1e-3


@dataclass(frozen=True)
class Grid:
    """The posterior of up to four scalar sites on a product grid.

    Attributes:
        points: for every latent site the number of points of its axis, over the support of its distribution; or
            (low, high, number), as an unbounded support requires; or an increasing list or array of points.
        adaptive: evaluate where the mass lies and interpolate; otherwise evaluate at every point.
        max_error: error of the log evidence and of any marginal cumulative distribution at which refinement ends.
        max_evaluations: evaluations before refinement gives up, with a warning; by default as many as the whole grid
            has, at least twice those of the start.
        first_cells: cells along each axis at the start, with 5 evaluations along each axis of a cell; by default 8, 4,
            2 and 2 in one to four dimensions. More find modes that are narrower and further from everything else.
        batch_size: evaluations made together.
    """

    points: Mapping[str, int | tuple[float, float, int] | Sequence[float] | np.ndarray]
    adaptive: bool = True
    max_error: float = 0.01
    max_evaluations: int | None = None
    first_cells: int | None = None
    batch_size: int = 64

    def __post_init__(self) -> None:
        if not self.points:
            raise ValueError("Grid needs the points of at least one site, e.g. Grid({'sigma': 40})")
        if self.max_error <= 0 or min(self.batch_size, self.max_evaluations or 1, self.first_cells or 1) < 1:
            raise ValueError("max_error, max_evaluations, first_cells and batch_size must be positive")
        plain = {name: x.tolist() if isinstance(x, np.ndarray) else x for name, x in self.points.items()}
        object.__setattr__(self, "points", plain)

    def run(self, key: jax.Array, target: Target, num_chains: int, num_samples: int, progress: bool) -> xr.DataTree:
        """Grid, marginals and draws as a DataTree.

        Groups ``posterior`` and ``sample_stats`` (``lp``, the log of prior times likelihood) hold independent draws;
        ``grid`` the density on its axes; ``marginals`` those of every site and pair. Attributes ``log_evidence``,
        ``log_evidence_error``, ``marginal_error`` (bound on that of any cumulative distribution), ``num_evaluations``
        and ``grid_converged``.

        Raises:
            ValueError: a site does not fit a grid, or the density is infinite, NaN or zero at all points.
        """
        import xarray as xr

        from .grid_summary import grid_dataset, marginals_dataset
        from .results import draws_dataset, observed_dataset

        key_axes, key_draws = jax.random.split(key)
        axes = read_axes(self.points, key_axes, target)
        names = [axis.name for axis in axes]
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key_draws)).ravel())
        density = _Density(target, axes, self.batch_size)
        size = int(np.prod([axis.num for axis in axes]))
        limit = self._limit(size, len(axes)) if self.adaptive else size
        evaluate = Budget(density, limit)
        with TaskProgress("grid", limit, progress) as bar:
            density.bar = bar
            found = self._refined(rng, axes, evaluate) if self.adaptive else _evaluated(axes, evaluate)
        error = max(found.log_evidence_error, found.marginal_error)
        if error >= self.max_error:
            advice = "allow more by max_evaluations" if self.adaptive else "take more points, or adaptive=True"
            warnings.warn(
                f"the grid reached an error of {error:.2g} with {evaluate.used} evaluations, not max_error="
                f"{self.max_error:g}: {advice}",
                UserWarning,
                stacklevel=4,
            )
        points = [self._place(found.cells, i, axis) for i, axis in enumerate(axes)]
        marginals = marginals_dataset(found.cells, names)
        for axis in axes:
            _warn_of_cut(axis, marginals[f"density_{axis.name}"].values)
        position, height = draw(rng, found.cells, num_chains * num_samples)
        values = density.sites(position)
        shape = (num_chains, num_samples)
        posterior = {name: x.reshape(*shape, *x.shape[1:]) for name, x in values.items()}
        result = xr.DataTree.from_dict(
            {
                "posterior": draws_dataset(posterior, target.dims),
                "sample_stats": draws_dataset({"lp": height.reshape(shape)}, {}),
                "observed_data": observed_dataset(target),
                "grid": grid_dataset(found.cells, names, points),
                "marginals": marginals,
            }
        )
        result.attrs = {
            "log_evidence": found.cells.log_total,
            "log_evidence_error": found.log_evidence_error,
            "marginal_error": found.marginal_error,
            "num_evaluations": evaluate.used,
            "grid_converged": int(error < self.max_error),
            "compile_seconds": density.compile_seconds,
        }
        return result

    def _limit(self, size: int, dimension: int) -> int:
        """Evaluations allowed."""
        start = (NODES * self._first(dimension)) ** dimension + NUM_CHECK
        if self.max_evaluations is None:
            return max(size, 2 * start)
        if self.max_evaluations < start:
            raise ValueError(f"Grid starts with {start} evaluations, max_evaluations allows {self.max_evaluations}")
        return self.max_evaluations

    def _first(self, dimension: int) -> int:
        return self.first_cells or FIRST_CELLS[dimension]

    def _refined(self, rng: np.random.Generator, axes: Sequence[Axis], evaluate: Budget) -> Refinement:
        low, high = (np.array([getattr(axis, end) for axis in axes]) for end in ("low", "high"))
        return refine_and_check(rng, evaluate, low, high, self._first(len(axes)), self.max_error)

    def _place(self, cells: Cells, index: int, axis: Axis) -> np.ndarray:
        """Points of an axis of the result."""
        if axis.points is not None:
            return axis.points
        return place_points(cells, index, axis.num) if self.adaptive else np.linspace(axis.low, axis.high, axis.num)


class _Density:
    """The log joint density of a model at values of its latent sites, compiled once for batches of them."""

    def __init__(self, target: Target, axes: Sequence[Axis], batch_size: int) -> None:
        if target.density != target.functions.log_density:
            raise ValueError("Grid evaluates the model's own density: this target has another one in its place")
        self._functions, self._data = target.functions, target.data
        self._names = tuple(axis.name for axis in axes)
        known = {*target.latent, *target.functions.observed}
        self._deterministic = tuple(name for name in target.dims if name not in known)
        self._batch_size = batch_size
        self.compile_seconds = 0.0
        self.bar: TaskProgress | None = None

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Log densities (n,) at points (n, d) in the order of the axes."""
        values = self._in_batches(_log_joint, (self._names,), points)["log_joint"]
        bad = np.flatnonzero(np.isnan(values) | (values == np.inf))
        if len(bad):
            where = ", ".join(f"{name}={x:.6g}" for name, x in zip(self._names, points[bad[0]], strict=True))
            raise ValueError(
                f"the log density is NaN or +infinity at {len(bad)} of {len(values)} points, the first {where}"
            )
        return values

    def sites(self, points: np.ndarray) -> dict[str, np.ndarray]:
        """Latent and deterministic sites, (n, ...)."""
        values = {name: points[:, i] for i, name in enumerate(self._names)}
        if self._deterministic:
            values |= self._in_batches(_deterministic_sites, (self._names, self._deterministic), points)
        return values

    def _in_batches(self, function: Any, static: tuple[Any, ...], points: np.ndarray) -> dict[str, np.ndarray]:
        batches = []
        for first in range(0, len(points), self._batch_size):
            # A last batch that is not full is filled up, so that one program serves all.
            rows = np.minimum(np.arange(first, first + self._batch_size), len(points) - 1)
            arguments = (jnp.asarray(points[rows], dtype=float), self._data)
            program, seconds = compile_once(function, (self._functions, *static), *arguments)
            self.compile_seconds += seconds
            num = min(self._batch_size, len(points) - first)
            batches.append({name: np.asarray(x)[:num] for name, x in program(*arguments).items()})
            if self.bar is not None:
                self.bar.advance(num)
        return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def _log_joint(functions: BoundModel, names: tuple[str, ...], points: jax.Array, data: Data) -> dict[str, jax.Array]:
    def one(point: jax.Array) -> jax.Array:
        values = dict(zip(names, point, strict=True))
        args, kwargs = functions.arguments(data)
        log_probs, _ = compute_log_probs(functions.model, args, kwargs, values)
        return jnp.asarray(sum(log_probs.values()), dtype=float)

    return {"log_joint": jax.vmap(one)(points)}


def _deterministic_sites(
    functions: BoundModel, names: tuple[str, ...], wanted: tuple[str, ...], points: jax.Array, data: Data
) -> dict[str, jax.Array]:
    def one(point: jax.Array) -> dict[str, jax.Array]:
        args, kwargs = functions.arguments(data)
        model = handlers.substitute(functions.model, data=dict(zip(names, point, strict=True)))
        trace = handlers.trace(model).get_trace(*args, **kwargs)
        return {name: jnp.asarray(trace[name]["value"]) for name in wanted}

    return jax.vmap(one)(points)


def _evaluated(axes: Sequence[Axis], evaluate: Budget) -> Refinement:
    """The density at every point, evenly spaced unless they are given."""
    points = [np.linspace(a.low, a.high, a.num) if a.points is None else a.points for a in axes]
    mesh = np.stack(np.meshgrid(*points, indexing="ij"), axis=-1)
    values = evaluate(mesh.reshape(-1, len(axes))).reshape(mesh.shape[:-1])
    cells = resolve(from_grid(points, values), _SUM_ERROR)
    error = remaining_error(cells)
    return Refinement(cells, error, error)


def _warn_of_cut(axis: Axis, density: np.ndarray) -> None:
    """Warn if a bound that was chosen within the support of a site cuts its posterior."""
    for side, index in (("low", 0), ("high", -1)):
        if axis.open_ends[index] and density[index] > _CUT * density.max():
            warnings.warn(
                f"the posterior of '{axis.name}' is cut at the {side} bound {getattr(axis, side):g} of its axis: move "
                "it out, or take evidence and probabilities as those within the bounds",
                UserWarning,
                stacklevel=5,
            )
