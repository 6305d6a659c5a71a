"""One run of a study: sample, draw the fields, judge, report, and keep everything in one folder.

The folder ends with ``posterior.zarr`` (the whole DataTree), ``summary.csv``, ``verdict.txt`` and ``report.html``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

import bayesdiff as bd
from inference.folder import RUNNING_STORE, clear_output, refuse_output, save, write_record
from models.dust_cmb.observation import Observation

if TYPE_CHECKING:
    import xarray as xr

_FIELD_DIMS = ("channel", "height", "width")


def run_study(
    observation: Observation,
    model: Callable[..., Any],
    *,
    algorithm: Any = None,
    num_chains: int = 4,
    num_samples: int = 1000,
    num_fields: int = 200,
    num_replicates: int = 0,
    seed: int = 0,
    pixel_arcmin: float = 8.0,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    title: str = "Separation of dust and CMB",
    output: str | Path | None = None,
    overwrite: bool = False,
    record: Mapping[str, Any] | None = None,
    resuming: bool = False,
    attributes: Mapping[str, Any] | None = None,
    progress: bool = True,
    callback: Callable[[Any], None] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> xr.DataTree:
    """Sample the posterior of one observation, draw the fields behind it, and report where a folder is given.

    A KeyboardInterrupt while the chains run keeps the draws made so far: they are reported without fields, with the
    attribute ``status`` "interrupted". One that comes before the first draw is raised. Either way, and after a kill,
    the same call with ``resuming`` continues.

    Args:
        observation: the mixed map and what is known of it.
        model: NumPyro model of it, called as ``model(y)``; the same object for many observations compiles once.
        algorithm: engine; by default ``bd.MarginalSurrogate()``.
        num_chains: chains.
        num_samples: draws of each chain after its warm-up.
        num_fields: field draws over all chains; 0 for none, and then the separated noise is not checked either.
        num_replicates: data sets replicated from the posterior, with which the observation is compared.
        seed: of every random number of the run.
        pixel_arcmin: side of a pixel [arcmin], for the report.
        bounds: prior range of the parameters that have one, for the verdict and the pictures.
        title: heading of the report.
        output: folder to write to; None writes nothing.
        overwrite: whether files of an earlier run in that folder may be replaced.
        record: settings to keep in the folder beside the observation, for `inference.runs`.
        resuming: continue the run that the folder holds.
        attributes: further root attributes to keep.
        progress: whether to show progress bars.
        callback: called after every block of steps, see :func:`bayesdiff.sample`.
        say: receives a line at each stage.

    Returns:
        DataTree with posterior, sample_stats, observed_data, fields, and truth where it is known.

    Raises:
        FileExistsError: the folder holds files and ``overwrite`` is not set.
    """
    key_sample, key_fields = jax.random.split(jax.random.key(seed))
    key_checks = jax.random.fold_in(key_fields, 1)
    folder = None if output is None else Path(output)
    if folder is not None and not resuming:
        refuse_output(folder, overwrite)
        clear_output(folder)
        if record is not None:
            write_record(folder, record, observation)
    if algorithm is None:
        algorithm = bd.MarginalSurrogate()
    y = np.asarray(observation.y, dtype=np.float32)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="interrupted", category=UserWarning)
            data = bd.sample(
                key_sample,
                model,
                y,
                algorithm=algorithm,
                num_chains=num_chains,
                num_samples=num_samples,
                store=None if folder is None else folder / RUNNING_STORE,
                progress=progress,
                callback=callback,
            ).load()
    except KeyboardInterrupt:
        # Before the first iteration nothing is kept, and an empty folder is not in the way of the next run.
        if folder is not None and not resuming and not (folder / RUNNING_STORE).exists():
            clear_output(folder)
        raise
    data.attrs.update({"observation": observation.description, "unit": observation.unit, **dict(attributes or {})})
    if observation.truth is not None:
        data["truth"] = truth_group(observation.truth)
    if num_fields > 0 and data.attrs["status"] == "complete":
        try:
            data = bd.draw_fields(key_fields, model, y, data=data, num_draws=num_fields, progress=progress)
            data = bd.predictive_checks(
                key_checks, model, y, data=data, num_replicates=num_replicates, progress=progress
            )
        except KeyboardInterrupt:
            data.attrs["status"] = "interrupted"
    if folder is not None:
        say(f"Writing {folder}")
        save(data, folder)
        report(data, folder, observation, title, pixel_arcmin, bounds or {}, seed)
    return data


def truth_group(truth: Mapping[str, Any]) -> xr.DataTree:
    """The group ``truth``: scalars, and fields (channel, height, width)."""
    import xarray as xr

    entries = {name: np.asarray(value) for name, value in truth.items()}
    return xr.DataTree(xr.Dataset({name: (_FIELD_DIMS if x.ndim else (), x) for name, x in entries.items()}))


def report(
    data: xr.DataTree,
    folder: Path,
    observation: Observation,
    title: str,
    pixel_arcmin: float,
    bounds: Mapping[str, tuple[float, float]],
    seed: int = 0,
) -> Path:
    """Write the summary, the verdict and the page; returns the page."""
    rng = np.random.default_rng(seed)
    return bd.reporting.write_report(
        data,
        folder,
        title=title,
        pixel_arcmin=pixel_arcmin,
        bounds=dict(bounds),
        parameters=tuple(bounds),
        prior_draws={name: rng.uniform(*bound, size=4000) for name, bound in bounds.items()},
        notes=(
            *far_from_truth(data),
            *observation.notes,
            f"One dust standard deviation (dust s.d.), the unit of the maps, is {observation.unit}.",
        ),
    )


def far_from_truth(data: xr.DataTree, threshold: float = 3.0) -> tuple[str, ...]:
    """A sentence where a parameter is more standard deviations than ``threshold`` from its known truth, else nothing.

    Chains can converge to the posterior of a model that does not describe the data; none of their diagnostics shows it.
    """
    scores = bd.reporting.summary_table(data)["z"].to_dict()
    far = ", ".join(f"{name} {z:+.1f}" for name, z in scores.items() if abs(z) > threshold)
    if not far:
        return ()
    return (
        f"Far from the truth, in posterior standard deviations: {far}. The verdict is on the chains alone; the prior "
        "may not describe these data.",
    )
