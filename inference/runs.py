"""What a run folder holds of the run itself, and the commands on runs: ``resume`` and ``show``.

Beside its results a run folder holds ``run.json`` (the problem and its settings) and ``observation.npz`` (the mixed map
and the truth, where it is known), written before the chains start: together with the draws and the state of the chains
in ``draws.zarr`` they are all that it takes to continue.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, NoReturn

import typer

if TYPE_CHECKING:
    import xarray as xr
    from rich.console import Console

    from models.dust_cmb.observation import Observation

SETTINGS, OBSERVATION = "run.json", "observation.npz"
BAD_INPUT = 2
_MAX_ROWS = 16
_SCALARS = ("preparation_seconds", "compile_seconds", "warmup_seconds", "sampling_seconds")


class Record(NamedTuple):
    """What a run folder says of its run: the settings by name, ``problem`` among them, and the observation."""

    settings: dict[str, Any]
    observation: Observation


def write_record(folder: Path, settings: Mapping[str, Any], observation: Observation) -> None:
    """Write the settings and the observation; the settings last, so that a folder with settings is complete."""
    import numpy as np

    arrays: dict[str, Any] = {f"truth_{name}": np.asarray(x) for name, x in (observation.truth or {}).items()}
    partial = folder / f"{OBSERVATION}.partial"
    with open(partial, "wb") as file:
        np.savez(file, y=observation.y, **arrays)
    os.replace(partial, folder / OBSERVATION)
    words = {"description": observation.description, "notes": list(observation.notes), "unit": observation.unit}
    partial = folder / f"{SETTINGS}.partial"
    partial.write_text(json.dumps({**settings, "observation": words}, indent=1))
    os.replace(partial, folder / SETTINGS)


def read_record(folder: Path) -> Record:
    """The settings and the observation of a run folder.

    Raises:
        FileNotFoundError: the folder is not there, or is no run folder.
        ValueError: a file is damaged.
    """
    import numpy as np

    from models.dust_cmb.observation import Observation

    if not (folder / SETTINGS).is_file():
        what = f"no folder '{folder}'" if not folder.is_dir() else f"'{folder}' is no run folder: it has no {SETTINGS}"
        raise FileNotFoundError(what)
    try:
        settings = json.loads((folder / SETTINGS).read_text())
        words = settings.pop("observation")
        with np.load(folder / OBSERVATION, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        y = arrays.pop("y")
    except (ValueError, KeyError, EOFError) as error:
        raise ValueError(f"{SETTINGS} or {OBSERVATION} in '{folder}' is damaged ({error})") from error
    truth = {name.removeprefix("truth_"): x if x.ndim else float(x) for name, x in arrays.items()}
    return Record(settings, Observation(y, truth or None, words["description"], tuple(words["notes"]), words["unit"]))


def resume(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Folder of the run (its --output).")],
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
) -> None:
    """Continue an interrupted run where it stopped, to the same draws as if it had not been.

    Exit status: that of the run; 0 if it is complete already.
    """
    from rich.console import Console

    from inference.dust_cmb import resume_dust_cmb

    try:
        settings, observation = read_record(path)
        if settings.get("problem") != "dust_cmb":
            raise ValueError(
                f"'{path}' is a run of {settings.get('problem')!r}, which cannot be resumed: only dust_cmb"
            )
        status = _stored_status(path)
    except (ValueError, OSError) as error:
        _refuse(error)
    if status == "complete":
        Console(highlight=False).print(f"The run in {path} is complete: there is nothing to resume.", markup=False)
        return
    resume_dust_cmb(path, settings, observation, quiet)


def show(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Folder of a run, or a store of draws.")],
) -> None:
    """Print what a store or a run folder contains: algorithm, settings, status, draws so far, R-hat and ESS."""
    from rich.console import Console

    console = Console(highlight=False)
    try:
        folder = path if (path / SETTINGS).is_file() else None
        found = _find_draws(path)
        if found is not None:
            data = _open(found)
        elif folder is None:
            raise FileNotFoundError(
                f"no file or folder '{path}'"
                if not path.exists()
                else f"'{path}' is neither a run folder nor a store of draws"
            )
        settings = read_record(folder).settings if folder is not None else {}
    except (ValueError, OSError) as error:
        _refuse(error)
    if folder is not None:
        console.print(f"Run folder {path}", markup=False, style="bold")
        _print_pairs(console, {name: value for name, value in settings.items()})
    if found is None:
        console.print("No draws yet: the run had not made its first iteration.", markup=False)
        return
    console.print(f"Draws in {found}", markup=False, style="bold")
    _print_pairs(console, _describe(found, data))
    _print_sites(console, data)
    _print_diagnostics(console, data)


def _find_draws(path: Path) -> Path | None:
    """The store of draws at a path or in a run folder; the result rather than what is left of the running chains."""
    from inference.study import RESULT, RUNNING_STORE

    for candidate in (path / RUNNING_STORE, path / RESULT, path):
        if (candidate / "zarr.json").is_file():
            return candidate
    return None


def _open(store: Path) -> xr.DataTree:
    from bayesdiff.sampling.store import open_store

    try:
        whole = "consolidated_metadata" in json.loads((store / "zarr.json").read_text())
        data = open_store(store, consolidated=whole)
    except (ValueError, KeyError, OSError, RuntimeError) as error:
        raise ValueError(f"'{store}' cannot be read as a store of draws: {error}") from error
    if "algorithm" not in data.attrs:
        raise ValueError(f"'{store}' is a Zarr store, but not of draws: it names no algorithm")
    return data


def _stored_status(folder: Path) -> str:
    from inference.study import RESULT, RUNNING_STORE

    if (folder / RUNNING_STORE).exists() or not (folder / RESULT).exists():
        return "interrupted"
    return str(_open(folder / RESULT).attrs.get("status"))


def _describe(store: Path, data: xr.DataTree) -> dict[str, Any]:
    attributes = dict(data.attrs)
    settings = json.loads(attributes.get("settings", "{}"))
    wanted, chains = settings.pop("num_samples", None), settings.pop("num_chains", None)
    progress = json.loads(attributes.get("progress", "{}"))
    drawn = data["sample_stats"].sizes["draw"] if "sample_stats" in data.children else 0
    status = "running" if _is_running(store) else attributes.get("status", "unknown")
    entries = {
        "algorithm": attributes["algorithm"],
        "settings": ", ".join(f"{name}={value}" for name, value in settings.items()),
        "status": status,
        "draws": f"{drawn} of {wanted} of each of {chains} chains",
    }
    if progress:
        warm = min(progress["iteration"], progress["num_warmup"])
        entries["warm-up"] = f"{warm} of {progress['num_warmup']} iterations"
    entries |= {name: attributes[name] for name in ("seed", "versions") if name in attributes}
    entries |= {name.replace("_", " "): f"{attributes[name]:.1f}" for name in _SCALARS if name in attributes}
    return entries


def _is_running(store: Path) -> bool:
    from bayesdiff.sampling.interrupts import Lock

    try:
        Lock(store).release()
    except BlockingIOError:
        return True
    return False


def _print_pairs(console: Console, entries: Mapping[str, Any]) -> None:
    from rich.table import Table

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 2))
    for name, value in entries.items():
        table.add_row(name, str(value))
    console.print(table, markup=False)


def _print_sites(console: Console, data: xr.DataTree) -> None:
    from rich.table import Table

    table = Table("group", "site", "draws", "shape", box=None, padding=(0, 2, 0, 2))
    for group, node in data.children.items():
        if group.startswith("posterior") or group == "fields":
            for name, variable in node.data_vars.items():
                shape = tuple(size for dim, size in variable.sizes.items() if dim not in ("chain", "draw"))
                table.add_row(group, str(name), f"{variable.sizes['chain']} x {variable.sizes['draw']}", str(shape))
    if table.row_count:
        console.print(table, markup=False)


def _print_diagnostics(console: Console, data: xr.DataTree) -> None:
    from rich.table import Table

    import bayesdiff as bd

    if "posterior" not in data.children:
        console.print("No draws yet: the chains are in their warm-up.", markup=False)
        return
    summary = bd.reporting.summary_table(data)
    table = Table("parameter", "mean", "sd", "R-hat", "bulk ESS", "tail ESS")
    for name, row in list(summary.iterrows())[:_MAX_ROWS]:
        numbers = [f"{row['mean']:.5g}", f"{row['sd']:.3g}", f"{row['rhat']:.3f}"]
        table.add_row(str(name), *numbers, f"{row['ess_bulk']:.0f}", f"{row['ess_tail']:.0f}")
    console.print(table, markup=False)
    if len(summary) > _MAX_ROWS:
        console.print(f"... and {len(summary) - _MAX_ROWS} more", markup=False)


def _refuse(error: Exception) -> NoReturn:
    """Print a sentence and leave with the exit status of bad input."""
    from rich.console import Console

    Console(stderr=True, highlight=False).print(f"Error: {' '.join(str(error).split())}", markup=False, soft_wrap=True)
    raise typer.Exit(BAD_INPUT) from None
