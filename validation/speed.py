"""Speed against NumPyro's own NUTS on the same models, and against a bare BlackJAX loop.

Two models: eight schools, and a Gaussian field of 32 x 32 pixels under a mask in noise of unknown level, every pixel of
which is sampled. All run in one process on the same observations, alternately, compiling apart. NumPyro's kernel runs
in a loop that is compiled once, its chains together and one after the other, and the faster of the two counts. The bare
loop is BlackJAX in a ``scan`` that keeps the position and the statistics that a verdict needs, as ours does, its chains
in turn on a CPU and together elsewhere, as ours are. It takes our step sizes and mass matrices, so that its
trajectories are as long, and is compared by the time per gradient, since those of different seeds are never quite so.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import arviz_stats
import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import NUTS as NumPyroNUTS
from rich.console import Console
from rich.table import Table

import bayesdiff as bd
from bayesdiff.sampling.layout import Layout
from bayesdiff.sampling.steps import compile_run
from bayesdiff.sampling.target import build_target
from models.linear_gaussian import make_twin
from validation.figures import Figure, above, below
from validation.noncentred import CONTEXT, SIZE, TRUE_NOISE_LEVEL, masked_model, random_mask

NUM_CHAINS = 4
IN_TURN = jax.default_backend() == "cpu"
STATISTICS = ("acceptance_rate", "is_divergent", "energy", "num_integration_steps")


class Problem(NamedTuple):
    """A model with its data, and how it is run.

    Attributes:
        model: NumPyro model.
        y: its observation.
        sites: whose effective sample sizes count.
        num_warmup: iterations of adaptation.
        num_samples: draws of each chain.
        dense_mass: whether the mass matrix is dense.
        num_repeats: runs of each engine, of which the median counts.
    """

    model: Callable[..., None]
    y: jax.Array
    sites: tuple[str, ...]
    num_warmup: int
    num_samples: int
    dense_mass: bool
    num_repeats: int


class Run(NamedTuple):
    """Smallest effective sample size of a run, and its seconds."""

    ess: float
    warmup: float
    sampling: float
    compiling: float


def run() -> list[Figure]:
    """All figures of this study."""
    figures = []
    for name, problem in {"eight schools": eight_schools(), f"field of {SIZE} x {SIZE}": field()}.items():
        figures += _against_numpyro(name, problem)
        figures.append(
            below(f"{name}: time per gradient over a bare BlackJAX loop's", _against_blackjax(problem), 1.05)
        )
    return figures


def eight_schools() -> Problem:
    """Rubin (1981), non-centred."""
    y = jnp.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
    sigma = jnp.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])

    def model(y=None):
        mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
        unit = numpyro.sample("unit", dist.Normal(0.0, 1.0).expand((8,)).to_event(1))
        numpyro.sample("y", dist.Normal(mu + tau * unit, sigma).to_event(1), obs=y)

    return Problem(model, y, ("mu", "tau", "unit"), 1000, 10_000, False, 21)


def field() -> Problem:
    """The field of the study ``noncentred``."""
    twin = make_twin(SIZE)
    observed = random_mask(SIZE)
    prior = bd.DiffusionPrior(twin, CONTEXT)
    x = prior.sample(jax.random.key(1)).reshape(-1)[np.flatnonzero(observed)]
    y = x + TRUE_NOISE_LEVEL * jax.random.normal(jax.random.key(2), x.shape)
    return Problem(bd.noncentred(masked_model(prior, observed)), y, ("x_base", "s"), 300, 2000, False, 7)


def _against_numpyro(name: str, problem: Problem) -> list[Figure]:
    engines: dict[str, Callable[[int], Run]] = {
        "bayesdiff": partial(_ours, problem),
        "NumPyro, vectorised": _theirs(problem, True),
        "NumPyro, sequential": _theirs(problem, False),
    }
    runs: dict[str, list[Run]] = {engine: [] for engine in engines}
    for repeat in range(problem.num_repeats):
        for engine, call in engines.items():
            runs[engine].append(call(repeat))
    table = Table("engine", "smallest ESS", "warm-up [s]", "sampling [s]", "compiling [s]", title=name)
    rates: dict[str, list[float]] = {"sampling": [], "warm-up and sampling": []}
    for engine, repeats in runs.items():
        ess, warmup, sampling = (np.array([getattr(r, x) for r in repeats]) for x in ("ess", "warmup", "sampling"))
        cells = (f"{np.median(x):.4g}" for x in (ess, warmup, sampling))
        table.add_row(engine, *cells, f"{repeats[0].compiling:.1f}")
        rates["sampling"].append(float(np.median(ess / sampling)))
        rates["warm-up and sampling"].append(float(np.median(ess / (warmup + sampling))))
    Console(width=120).print(table)
    return [
        above(f"{name}: smallest ESS per second of {phase} over NumPyro's", ours / max(theirs), 1.0)
        for phase, (ours, *theirs) in rates.items()
    ]


def _ours(problem: Problem, repeat: int) -> Run:
    algorithm = bd.NUTS(num_warmup=problem.num_warmup, dense_mass=problem.dense_mass)
    data = bd.sample(
        jax.random.key(repeat),
        problem.model,
        problem.y,
        algorithm=algorithm,
        num_chains=NUM_CHAINS,
        num_samples=problem.num_samples,
        keep=problem.sites,
        progress=False,
    )
    posterior = data["posterior"].to_dataset()
    draws = {name: posterior[name].values for name in problem.sites}
    return Run(_smallest_ess(draws), *(data.attrs[f"{x}_seconds"] for x in ("warmup", "sampling", "compile")))


def _theirs(problem: Problem, vectorised: bool) -> Callable[[int], Run]:
    """NumPyro's kernel in a loop that is compiled once; its ``MCMC`` would compile it again at every call."""

    def begin(repeat: int) -> tuple[Any, list[Any]]:
        # A kernel that begins with several chains is vectorised once more each time.
        kernel: Any = NumPyroNUTS(problem.model, dense_mass=problem.dense_mass)
        keys = jax.random.split(jax.random.key(repeat), NUM_CHAINS)
        init = partial(kernel.init, num_warmup=problem.num_warmup, init_params=None, model_kwargs={})
        return kernel, [init(key, model_args=(problem.y,)) for key in ([keys] if vectorised else keys)]

    kernel, states = begin(0)

    def warm_up(state: Any) -> Any:
        return jax.lax.fori_loop(0, problem.num_warmup, lambda _, s: kernel.sample(s, (problem.y,), {}), state)

    def draw(state: Any) -> Any:
        def step(state: Any, _: None) -> tuple[Any, Any]:
            state = kernel.sample(state, (problem.y,), {})
            return state, (state.z, state.diverging, state.accept_prob, state.energy, state.num_steps)

        return jax.lax.scan(step, state, length=problem.num_samples)[1][0]

    clock = time.perf_counter()
    programs = [jax.jit(f).lower(states[0]).compile() for f in (warm_up, draw)]
    compiling = time.perf_counter() - clock
    constrain = jax.vmap(jax.vmap(kernel.postprocess_fn((problem.y,), {})))

    def call(repeat: int) -> Run:
        states = begin(repeat)[1]
        clock = time.perf_counter()
        states = jax.block_until_ready([programs[0](state) for state in states])
        middle = time.perf_counter()
        chains = jax.block_until_ready([programs[1](state) for state in states])
        end = time.perf_counter()
        rows = {name: jnp.stack([chain[name] for chain in chains]) for name in chains[0]}
        z = {name: x[0].swapaxes(0, 1) for name, x in rows.items()} if vectorised else rows
        draws = {name: np.asarray(x) for name, x in constrain(z).items() if name in problem.sites}
        return Run(_smallest_ess(draws), middle - clock, end - middle, compiling)

    return call


def _against_blackjax(problem: Problem) -> float:
    """Median ratio of the times per gradient, while sampling."""
    algorithm = bd.NUTS(num_warmup=problem.num_warmup, dense_mass=problem.dense_mass)
    bare = _bare_loop(problem, algorithm)
    bare(0)
    ratios = []
    for repeat in range(1, problem.num_repeats + 1):
        options: Any = {"num_samples": problem.num_samples, "progress": False, "keep": problem.sites}
        data = bd.sample(jax.random.key(repeat), problem.model, problem.y, algorithm=algorithm, **options)
        gradients = _gradients(data["sample_stats"].to_dataset()["n_steps"].values)
        ratios.append(float(data.attrs["sampling_seconds"]) / gradients / bare(repeat))
    return float(np.median(ratios))


def _bare_loop(problem: Problem, algorithm: bd.NUTS) -> Callable[[int], float]:
    """Chains of BlackJAX in a ``scan`` after our warm-up: seconds per gradient, while sampling."""
    target = build_target(jax.random.key(0), problem.model, (problem.y,))
    layout = Layout.of(target.latent_shapes)

    def log_density(position):
        return target.density(position, target.density_data)

    @jax.jit
    def draw(key, states, parameters):
        kernel = blackjax.nuts.build_kernel()

        def step(states, key):
            move = lambda key, state, tuning: kernel(key, state, log_density, **tuning)  # noqa: E731
            each = (jax.random.split(key, NUM_CHAINS), states, parameters)
            states, info = jax.lax.map(lambda chain: move(*chain), each) if IN_TURN else jax.vmap(move)(*each)
            statistics = {name: getattr(info, name) for name in STATISTICS}
            return states, (states.position, states.logdensity, statistics)

        return jax.lax.scan(step, states, jax.random.split(key, problem.num_samples))[1]

    def call(repeat: int) -> float:
        key_warmup, key_draws = jax.random.split(jax.random.key(repeat))
        prepared = algorithm.prepare(key_warmup, target, NUM_CHAINS, False)
        programs, state = compile_run(key_warmup, prepared, NUM_CHAINS, ())
        for first in range(0, problem.num_warmup, programs.longest):
            state, *_ = programs.steps(first, min(programs.longest, problem.num_warmup - first), state)
        states = jax.vmap(lambda vector: blackjax.nuts.init(layout.unflatten(vector), log_density))(
            state.current.position
        )
        parameters = {
            "step_size": state.adaptation.step_size,
            "inverse_mass_matrix": state.adaptation.inverse_mass_matrix,
        }
        jax.block_until_ready(states)
        clock = time.perf_counter()
        *_, statistics = jax.block_until_ready(draw(key_draws, states, parameters))
        seconds = time.perf_counter() - clock
        return seconds / _gradients(np.asarray(statistics["num_integration_steps"]).T)

    return call


def _gradients(n_steps: np.ndarray) -> float:
    """Gradients one after the other that trajectories of these lengths (chain, draw) take."""
    return float(n_steps.sum() if IN_TURN else n_steps.max(axis=0).sum())


def _smallest_ess(draws: dict[str, np.ndarray]) -> float:
    flat = {name: x.reshape(*x.shape[:2], -1) for name, x in draws.items()}
    return min(float(arviz_stats.ess(x[..., i])) for name, x in flat.items() for i in range(x.shape[-1]))
