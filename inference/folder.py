"""What the folder of a run holds, and how it is kept.

While the chains run, draws and the chains' state are appended to ``draws.zarr``, which ``xarray.open_datatree`` reads
at any time and from which an interrupted run continues; beside it ``run.json`` (the problem and its settings) and,
where it cannot be made again from them, ``observation.npz`` (what was observed and the truth, where it is known) say
what it takes to go on. ``draws.zarr`` is removed only once a complete ``posterior.zarr``, written under another name
first, stands in its place.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import xarray as xr

    from models.density_fields.observation import DensityFields
    from models.dust_cmb.observation import Observation

SETTINGS, OBSERVATION, ESTIMATES = "run.json", "observation.npz", "estimators.csv"
RUNNING_STORE, RESULT = "draws.zarr", "posterior.zarr"
FILES = (
    *(RUNNING_STORE, f"{RUNNING_STORE}.partial", RESULT, f"{RESULT}.part", SETTINGS, OBSERVATION),
    *("summary.csv", "verdict.txt", "report.html", "maps.png", ESTIMATES),
)


def refuse_output(output: Path, overwrite: bool) -> None:
    """Raise OSError if the output is a file, or a folder that holds anything and may not be overwritten."""
    if output.exists() and not output.is_dir():
        raise NotADirectoryError(f"the output must be a folder, and {output} is a file")
    if output.is_dir() and any(output.iterdir()) and not overwrite:
        raise FileExistsError(f"{output} exists already and holds files: choose another --output, or give --overwrite")


def clear_output(folder: Path) -> None:
    """Make the folder, and remove from it what an earlier run wrote, and nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def save(data: xr.DataTree, folder: Path) -> Path:
    """Write the whole result; if it is complete it takes the place of what was kept while the chains ran."""
    partial, path, running = folder / f"{RESULT}.part", folder / RESULT, folder / RUNNING_STORE
    shutil.rmtree(partial, ignore_errors=True)
    with warnings.catch_warnings():
        # Zarr says that consolidated metadata are not yet in its standard; without them xarray warns at every opening.
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        data.to_zarr(partial, mode="w-", consolidated=True)
    shutil.rmtree(path, ignore_errors=True)
    partial.rename(path)
    if data.attrs["status"] == "complete":
        shutil.rmtree(running, ignore_errors=True)
    return path


def interruption(folder: Path) -> str:
    """What is said when a run is interrupted: how to go on, where anything was kept."""
    if (folder / RUNNING_STORE).exists():
        return f"Interrupted: the chains so far are kept; to continue: python -m inference resume {folder}."
    return "Interrupted: before the first draw there is nothing to keep."


def write_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write the settings of a run, ``problem`` among them."""
    partial = folder / f"{SETTINGS}.partial"
    partial.write_text(json.dumps(dict(settings), indent=1))
    os.replace(partial, folder / SETTINGS)


class MissingSettingError(ValueError):
    """A run folder does not say what its run needs to know."""


class Settings(dict[str, Any]):
    """Settings as they were read; one that is not there is an error that says so."""

    def __missing__(self, name: str) -> Any:
        raise MissingSettingError(f"{SETTINGS} lacks the setting {name!r}: another version wrote it, or it was changed")


def read_settings(folder: Path) -> Settings:
    """The settings of a run folder.

    Raises:
        FileNotFoundError: the folder is not there, or is no run folder.
        ValueError: the file is damaged.
    """
    if not (folder / SETTINGS).is_file():
        what = f"no folder '{folder}'" if not folder.is_dir() else f"'{folder}' is no run folder: it has no {SETTINGS}"
        raise FileNotFoundError(what)
    try:
        settings = json.loads((folder / SETTINGS).read_text())
    except ValueError as error:
        raise ValueError(f"{SETTINGS} in '{folder}' is damaged ({error})") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{SETTINGS} in '{folder}' is damaged (it holds a {type(settings).__name__}, no settings)")
    settings.pop("observation", None)
    return Settings(settings)


class Record(NamedTuple):
    """What a run folder says of its run: the settings by name, ``problem`` among them, and the observation."""

    settings: dict[str, Any]
    observation: Observation


def write_record(folder: Path, settings: Mapping[str, Any], observation: Observation | DensityFields) -> None:
    """Write the settings and the observation; the settings last, so that a folder with settings is complete."""
    import numpy as np

    arrays: dict[str, Any] = {f"truth_{name}": np.asarray(x) for name, x in (observation.truth or {}).items()}
    partial = folder / f"{OBSERVATION}.partial"
    with open(partial, "wb") as file:
        np.savez(file, y=observation.y, **arrays)
    os.replace(partial, folder / OBSERVATION)
    words = {"description": observation.description, "notes": list(observation.notes), "unit": observation.unit}
    write_settings(folder, {**settings, "observation": words})


def read_record(folder: Path) -> Record:
    """The settings and the observation of a run folder.

    Raises:
        FileNotFoundError: the folder is not there, or is no run folder.
        ValueError: a file is damaged.
    """
    import numpy as np

    from models.dust_cmb.observation import Observation

    settings = read_settings(folder)
    try:
        words = json.loads((folder / SETTINGS).read_text())["observation"]
        with np.load(folder / OBSERVATION, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        y = arrays.pop("y")
    except (ValueError, KeyError, EOFError) as error:
        raise ValueError(f"{SETTINGS} or {OBSERVATION} in '{folder}' is damaged ({error})") from error
    truth = {name.removeprefix("truth_"): x if x.ndim else float(x) for name, x in arrays.items()}
    return Record(settings, Observation(y, truth or None, words["description"], tuple(words["notes"]), words["unit"]))
