"""The commands on runs: ``resume`` and ``show``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inference.exits import speaking
from inference.folder import RESULT, RUNNING_STORE, SETTINGS, read_record, read_settings

if TYPE_CHECKING:
    import xarray as xr
    from rich.console import Console

PROBLEMS = ("dust_cmb", "mass_mapping", "masked_map", "density_fields", "cib_tsz")
"""Whose runs can be resumed: ``inference.NAME`` has a function ``resume(output, settings, quiet)``."""
_MAX_ROWS = 16
_SCALARS = ("preparation_seconds", "compile_seconds", "warmup_seconds", "sampling_seconds")


def resume(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Folder of the run (its --output).")],
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
) -> None:
    """Continue an interrupted run where it stopped, to the same draws as if it had not been.

    Exit status: that of the run; 0 if it is complete already.
    """
    from rich.console import Console

    with speaking():
        settings = read_settings(path)
        problem = settings.get("problem")
        if problem not in PROBLEMS:
            raise ValueError(f"'{path}' is a run of {problem!r}, which cannot be resumed: only {', '.join(PROBLEMS)}")
        if _stored_status(path) == "complete":
            Console(highlight=False).print(f"The run in {path} is complete: there is nothing to resume.", markup=False)
            return
    import_module(f"inference.{problem}").resume(path, settings, quiet)


def show(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Folder of a run, or a store of draws.")],
) -> None:
    """Print what a store or a run folder contains: algorithm, settings, status, draws so far, R-hat and ESS."""
    from rich.console import Console

    console = Console(highlight=False)
    with speaking():
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
        settings = _checked_settings(folder) if folder is not None else {}
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


def _checked_settings(folder: Path) -> dict[str, Any]:
    """The settings of a run folder; an observation that is damaged is said here rather than when the run goes on."""
    settings = read_settings(folder)
    return read_record(folder).settings if settings.get("problem") in ("dust_cmb", "density_fields") else settings


def _find_draws(path: Path) -> Path | None:
    """The store of draws at a path or in a run folder; the result rather than what is left of the running chains."""
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
