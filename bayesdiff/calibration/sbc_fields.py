"""Fields behind the data sets of a calibration study, drawn from its posteriors, for `check_fields`.

A model with ``NoisyDiffusion`` integrates its fields out, so that a study ranks parameters alone. Here the fields of
some of its simulations are drawn, one for each of several draws of the parameters, and stand beside the true ones.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import xarray as xr

from bayesdiff.calibration import sbc_problem as reading
from bayesdiff.calibration.sbc_problem import Model, Simulator
from bayesdiff.calibration.sbc_result import Sbc
from bayesdiff.calibration.sbc_store import identity
from bayesdiff.calibration.sbc_study import simulations
from bayesdiff.sampling.diffusion_sites import require_noisy_sites
from bayesdiff.sampling.latent_fields import fields_of
from bayesdiff.sampling.progress import TaskProgress
from bayesdiff.sampling.sample import typed_key
from bayesdiff.sampling.target import build_target

CARD = "fields.json"


def study_fields(
    key: jax.Array,
    model: Model,
    study: Sbc,
    *model_args: Any,
    simulator: Simulator,
    truth: str | Sequence[str],
    field: str | Sequence[str] | None = None,
    num_fields: int = 20,
    num_draws: int = 39,
    num_steps: int = 24,
    observed: Sequence[str] | None = None,
    store: str | Path | None = None,
    progress: bool = True,
    model_kwargs: Mapping[str, Any] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """True fields of simulations of a study, and draws of each from its posterior.

    Args:
        key: that of the study.
        model: that of the study, with a ``NoisyDiffusion`` site.
        study: the posteriors; it must rank every latent site.
        *model_args: see `sbc`.
        simulator: that of the study, which gives the true field as well.
        truth: under which name it does; of several fields their names, and the channels are joined.
        field: name of the field among those of `bayesdiff.draw_fields`, or as many names as ``truth`` has; by default
            that of the first one.
        num_fields: how many simulations, the first that have a posterior.
        num_draws: fields drawn of each, for draws of the parameters evenly over those that the study keeps.
        num_steps: denoiser evaluations of each.
        observed: see `sbc`.
        store: folder in which the fields of a simulation are kept as they are drawn; the same call continues.
        progress: whether to show a progress bar.
        model_kwargs: see `sbc`.

    Returns:
        Truth (simulation, channel, height, width) and draws (simulation, draw, channel, height, width).

    Raises:
        ValueError: the study lacks a latent site or simulations, the simulator a true field, or the model a site; or
            ``truth`` and ``field`` do not name as many fields.
        FileExistsError: the store holds fields of another study.

    Example::

        truth, draws = bd.calibration.study_fields(key, model, study, simulator=simulator, truth="field")
        print(bd.calibration.check_fields(truth, draws).verdict())
    """
    key, kwargs = typed_key(key), dict(model_kwargs or {})
    truths, names = _names(truth), None if field is None else _names(field)
    if len(truths) != (1 if names is None else len(names)):
        raise ValueError(f"truth and field must name as many fields, got {truth!r} and {field!r}")
    sites = reading.read_sites(model, model_args, kwargs, observed)
    numbers = np.flatnonzero(study.ranked)[:num_fields]
    if not 1 <= num_fields == len(numbers):
        raise ValueError(
            f"num_fields must be 1 to {study.ranked.sum()}, the simulations with a posterior, got {num_fields}"
        )
    values, observation = simulations(
        key, model, numbers, *model_args, observed=observed, simulator=simulator, model_kwargs=kwargs
    )
    if missing := [name for name in truths if name not in values]:
        raise ValueError(f"the simulator must give the true field '{missing[0]}', it gives {', '.join(values)}")
    of_model = partial(reading.simulate, model, model_args, kwargs, tuple(sites.dtypes))
    shapes = {name: x.shape for name, x in jax.eval_shape(of_model, key)[0].items() if name in sites.latent}
    parameters = _parameters(study, shapes)
    posterior = partial(reading.given, model, model_args, kwargs, sites.dtypes)
    key_target, key_fields = jax.random.split(jax.random.fold_in(key, 1))
    target = build_target(key_target, posterior, ({name: x[0] for name, x in observation.items()},))
    require_noisy_sites(key_target, target, "study_fields")
    kept_field = field if field is None or isinstance(field, str) else list(field)
    about = {"study": identity(study.attributes), "field": kept_field, "num_draws": num_draws, "num_steps": num_steps}
    folder = None if store is None else _opened(Path(store), about)

    def draw(row: int, number: int) -> np.ndarray:
        some = {name: (("chain", "draw", *(f"{name}_{i}" for i in range(x.ndim - 2))), x[number][None])
                for name, x in parameters.items()}  # fmt: skip
        data = xr.DataTree.from_dict({"posterior": xr.Dataset(some)})
        of_row = target.with_data(key_target, {name: x[row] for name, x in observation.items()})
        drawn = fields_of(jax.random.fold_in(key_fields, number), of_row, data, num_draws, num_steps, progress=False)
        found = drawn["fields"].to_dataset()
        wanted = names or (str(next(iter(found))),)
        if unknown := [name for name in wanted if name not in found]:
            raise ValueError(f"field must be one of {', '.join(map(str, found))}, got '{unknown[0]}'")
        return np.concatenate([found[name].values[0] for name in wanted], axis=-3)

    draws = []
    with TaskProgress("fields, simulations", num_fields, progress) as bar:
        for row, number in enumerate(numbers):
            draws.append(_kept(folder, int(number), partial(draw, row, int(number))))
            bar.advance(1)
    return np.concatenate([np.asarray(values[name]) for name in truths], axis=-3), np.stack(draws)


def _names(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _parameters(study: Sbc, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Draws (simulation, draw, ...) of every latent site, from the columns of a study."""
    columns = {name: index for index, name in enumerate(study.names)}
    found = {}
    for name, shape in shapes.items():
        labels = reading.labels(name, shape)
        if missing := [label for label in labels if label not in columns]:
            raise ValueError(f"the study must rank every latent site, '{missing[0]}' is not among {', '.join(columns)}")
        picked = study.draws[..., [columns[label] for label in labels]]
        found[name] = picked.reshape(*study.draws.shape[:2], *shape)
    return found


def _opened(folder: Path, about: Mapping[str, Any]) -> Path:
    """A folder for the fields of this study."""
    card = folder / CARD
    if card.exists() and json.loads(card.read_text()) != about:
        raise FileExistsError(f"'{folder}' holds fields of another study, or other draws of them: choose another path")
    folder.mkdir(parents=True, exist_ok=True)
    if not card.exists():
        card.write_text(json.dumps(dict(about)))
    return folder


def _kept(folder: Path | None, number: int, make: Callable[[], np.ndarray]) -> np.ndarray:
    """The fields of a simulation, from disk where they are there."""
    if folder is None:
        return make()
    path = folder / f"{number:05d}.npy"
    if not path.exists():
        partial_path = path.with_suffix(".partial.npy")
        np.save(partial_path, make())
        os.replace(partial_path, path)
    return np.load(path, allow_pickle=False)
