"""One run on dark-matter fields: the recommended posterior, the other estimators beside it, and the report of all."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

import bayesdiff as bd
from inference.density_estimators import ESTIMATORS, main_log_density, run_estimators
from inference.density_problem import Outcome, Problem, draws_of, evaluations_of, label_of
from inference.density_report import thinned, write_report
from inference.folder import RESULT, RUNNING_STORE, clear_output, refuse_output, save, write_record
from models.density_fields.data import PARAMETER_BOUNDS
from models.density_fields.observation import DensityFields

NUM_EXAMPLES = 2


def run_study(
    observed: DensityFields,
    prior: bd.DiffusionModel,
    settings: Mapping[str, Any],
    output: Path,
    *,
    overwrite: bool = False,
    resuming: bool = False,
    progress: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> xr.DataTree:
    """Sample the posterior by the recommended likelihood, then by the others, and report.

    A KeyboardInterrupt keeps what was drawn so far, with the attribute ``status`` "interrupted", and whole estimators;
    the same call with ``resuming`` continues. One that comes before the first draw is raised.

    Args:
        observed: the fields and what is known of them.
        prior: conditional prior.
        settings: ``engine``, ``estimators``, ``noisy``, ``num_chains``, ``num_samples``, ``seed``, ``command``,
            ``prior`` and ``prior_hash``.
        output: folder to write to.
        overwrite: whether files of an earlier run in that folder may be replaced.
        resuming: continue the run that the folder holds.
        progress: whether to show progress bars.
        say: receives a line at each stage.

    Returns:
        DataTree with ``posterior``, ``sample_stats``, ``observed_data``, ``estimators`` with a node for each,
        ``examples`` (fields drawn at the posterior), and ``truth`` where it is known.

    Raises:
        FileExistsError: the folder holds files and ``overwrite`` is not set.
    """
    if not resuming:
        refuse_output(output, overwrite)
        clear_output(output)
        write_record(output, settings, observed)
    key_main, key_others, key_examples = jax.random.split(jax.random.key(settings["seed"]), 3)
    problem = Problem(prior, observed.y, settings["noisy"], settings["num_chains"], settings["num_samples"], progress)
    kept = xr.open_datatree(output / RESULT, engine="zarr").load() if (output / RESULT).exists() else None
    try:
        data = _recommended(key_main, problem, settings["engine"], output, kept)
    except KeyboardInterrupt:
        if not resuming and not (output / RUNNING_STORE).exists():
            clear_output(output)
        raise
    data.attrs.update({name: settings[name] for name in ("command", "prior", "prior_hash")})
    data.attrs["observation"] = observed.description
    if observed.truth:
        data["truth"] = _truth_group(observed.truth)
    failed: list[str] = []
    if data.attrs["status"] == "complete":
        done = _finished(kept)

        def add(name: str, outcome: Outcome, seconds: float) -> None:
            done[name] = _node(ESTIMATORS[name].label, outcome, seconds)

        try:
            missing = [name for name in settings["estimators"] if name not in done]
            failed = run_estimators(key_others, problem, missing, add, say)
            data["examples"] = xr.DataTree(draw_examples(key_examples, problem, data))
        except KeyboardInterrupt:
            data.attrs["status"] = "interrupted"
        for name in settings["estimators"]:
            if name in done:
                data[f"estimators/{name}"] = xr.DataTree(done[name])
    say(f"Writing {output}")
    save(data, output)
    write_report(data, observed, prior, settings["noisy"], output, failed)
    return data


def _recommended(key: jax.Array, problem: Problem, engine: str, output: Path, kept: xr.DataTree | None) -> xr.DataTree:
    """The posterior by the recommended likelihood; chains are kept as they run and continue, a grid when it is done."""
    log_density = main_log_density(problem.prior)
    algorithms: dict[str, Any] = {
        "surrogate": lambda: problem.surrogate(log_density),
        "nuts": bd.NUTS,
        "hmc": bd.HMC,
        "grid": lambda: problem.grid(batch_size=max(1, 8 // problem.num_fields)),
    }
    if engine == "grid" and kept is not None:
        data = kept.drop_nodes([name for name in ("estimators", "examples", "truth") if name in kept.children])
        data.attrs["status"] = "complete"
        return data
    store = None if engine == "grid" else output / RUNNING_STORE
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="interrupted|the grid reached an error", category=UserWarning)
        data = problem.sample(key, problem.model(log_density), algorithms[engine](), store=store).load()
    data.attrs["estimator"] = f"{label_of(log_density)} ({data.attrs['algorithm']}), recommended"
    data.attrs["evaluations"] = evaluations_of(data, log_density, problem.num_fields)
    return data


def _finished(kept: xr.DataTree | None) -> dict[str, xr.Dataset]:
    """Estimators that an interrupted run had done."""
    if kept is None or "estimators" not in kept.children:
        return {}
    return {name: node.to_dataset() for name, node in kept["estimators"].children.items()}


def _node(label: str, outcome: Outcome, seconds: float) -> xr.Dataset:
    attributes = {"label": label, "evaluations": outcome.evaluations, "seconds": seconds, "remark": outcome.remark}
    return xr.Dataset({name: (("chain", "draw"), x) for name, x in outcome.draws.items()}, attrs=attributes)


def _truth_group(truth: Mapping[str, Any]) -> xr.DataTree:
    dims = ("field", "channel", "height", "width")
    arrays = {name: np.asarray(value) for name, value in truth.items()}
    return xr.DataTree(xr.Dataset({name: (dims[4 - x.ndim :] if x.ndim else (), x) for name, x in arrays.items()}))


def draw_examples(key: jax.Array, problem: Problem, data: xr.DataTree, num: int = NUM_EXAMPLES) -> xr.Dataset:
    """Fields at posterior draws: new ones of the prior, or, of fields in noise, what may lie behind the first.

    Returns:
        ``field`` (example, channel, height, width) and the parameters of each.
    """
    chosen = thinned(draws_of(data, problem.parameters), num)
    contexts = jnp.stack([jnp.asarray(chosen[name], jnp.float32) for name in PARAMETER_BOUNDS], axis=1)
    levels = jnp.asarray(chosen["noise_level"] if problem.noisy else np.zeros(num), jnp.float32)
    first = jnp.asarray(problem.y.reshape(-1, *problem.prior.event_shape)[0])

    @jax.jit
    def draw(key: jax.Array, context: jax.Array, s: jax.Array) -> jax.Array:
        if problem.noisy:
            return bd.NoisyDiffusion(problem.prior, s, context).sample_latent(key, first)
        return bd.DiffusionPrior(problem.prior, context).sample(key)

    fields = [np.asarray(draw(*each)) for each in zip(jax.random.split(key, num), contexts, levels, strict=True)]
    parameters = {name: (("example",), x) for name, x in chosen.items()}
    return xr.Dataset({"field": (("example", "channel", "height", "width"), np.stack(fields)), **parameters})
