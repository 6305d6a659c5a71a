"""Sets of simulations as CAMELS has them, in the files of its Multifield dataset.

LH: a Latin hypercube over (Omega_m, sigma_8), each simulation with a seed of its own. 1P: one parameter at a time, all
with one seed. CV: the fiducial cosmology, each with a seed of its own (Villaescusa-Navarro et al. 2022,
arXiv:2109.10915). Each simulation is first a file of its own, so that a set that was interrupted continues and several
processes share the work; the assembled set is three files: ``Maps_Mcdm_JaxPM_LH_z=0.00.npy``, (15 N, 64, 64) float32,
``params_LH_JaxPM.txt``, a row of Omega_m and sigma_8 per simulation, and ``spectra_LH_JaxPM.npz``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from models.density_fields.data import MAPS_PER_SIMULATION, PARAMETER_BOUNDS

if TYPE_CHECKING:
    from models.density_fields.simulator import Settings

FIDUCIAL = {"Omega_m": 0.3, "sigma_8": 0.8}
NUM = {"LH": 800, "CV": 300, "1P": 22}
PER_PARAMETER = 11
HYPERCUBE_SEED = 20220101
FIRST_SEED = {"LH": 0, "CV": 100_000, "1P": 200_000}
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "NPROC": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}


class SimulationSet(NamedTuple):
    """Which simulations a set has.

    Attributes:
        name: LH, CV or 1P.
        parameters: Omega_m and sigma_8, (N, 2).
        seeds: of the initial fields, (N,).
    """

    name: str
    parameters: np.ndarray
    seeds: np.ndarray


def simulation_set(name: str, num: int | None = None) -> SimulationSet:
    """The simulations of a set.

    Args:
        name: ``"LH"``, ``"CV"`` or ``"1P"``.
        num: of simulations; a 1P set always has 22: 11 values of Omega_m, then 11 of sigma_8.

    Raises:
        ValueError: an unknown set, or a number that it cannot have.
    """
    if name not in NUM:
        raise ValueError(f"the sets are {', '.join(NUM)}, got {name!r}")
    num = NUM[name] if num is None else num
    if num < 1 or (name == "1P" and num != NUM["1P"]):
        raise ValueError(f"set {name} needs {'22 simulations' if name == '1P' else 'at least one'}, got num={num}")
    low, high = np.array(list(PARAMETER_BOUNDS.values())).T
    seeds = FIRST_SEED[name] + np.arange(num)
    if name == "LH":
        from scipy.stats import qmc

        points = qmc.LatinHypercube(d=2, rng=np.random.default_rng(HYPERCUBE_SEED)).random(num)
        return SimulationSet(name, low + (high - low) * points, seeds)
    parameters = np.tile(list(FIDUCIAL.values()), (num, 1))
    if name == "1P":
        for axis in range(2):
            values = np.linspace(low[axis], high[axis], PER_PARAMETER).round(10)
            parameters[axis * PER_PARAMETER : (axis + 1) * PER_PARAMETER, axis] = values
        seeds = np.full(num, FIRST_SEED[name])
    return SimulationSet(name, parameters, seeds)


def generate(
    chosen: SimulationSet,
    folder: Path,
    processes: int = 2,
    settings: Settings | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Compute the simulations of a set that are missing in ``folder``, and assemble it.

    Args:
        chosen: the set.
        folder: of the assembled files; single simulations lie in ``simulations/`` in it.
        processes: that share the work, with one thread each.
        settings: of every simulation.
        say: is told now and then how far it is.

    Raises:
        ValueError: ``folder`` holds simulations of other settings, parameters or seeds under these names.
    """
    from models.density_fields.simulator import Settings

    settings = settings or Settings()
    parts = Path(folder) / "simulations"
    parts.mkdir(parents=True, exist_ok=True)
    jobs = [
        (parts / f"{chosen.name}_{index:04d}.npz", identity(seed, row, settings))
        for index, (seed, row) in enumerate(zip(chosen.seeds, chosen.parameters, strict=True))
    ]
    compute_missing(chosen.name, jobs, _compute, processes, say)
    assemble(chosen, jobs, Path(folder), settings)


def compute_missing(
    name: str,
    jobs: list[tuple[Path, dict[str, Any]]],
    compute: Callable[[tuple[Path, dict[str, Any]]], None],
    processes: int,
    say: Callable[[str], None],
) -> None:
    """Share the jobs whose file is missing among processes of one thread each.

    Args:
        name: of what is computed, for ``say``.
        jobs: a file and what determines its content each.
        compute: a function of a module, which writes the file of a job.
        processes: that share the work.
        say: is told now and then how far it is.
    """
    missing = [job for job in jobs if not job[0].exists()]
    if not missing:
        return
    start = time.monotonic()
    inherited = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)
    try:
        with get_context("spawn").Pool(min(processes, len(missing))) as pool:
            for done, _ in enumerate(pool.imap_unordered(compute, missing), start=1):
                if done == 5 or done % 20 == 0 or done == len(missing):
                    each = (time.monotonic() - start) / done
                    left = each * (len(missing) - done) / 60
                    say(f"{name}: {done} of {len(missing)} simulations, {each:.1f} s each, {left:.0f} min left")
    finally:
        for variable, value in inherited.items():
            os.environ.pop(variable, None) if value is None else os.environ.update({variable: value})


def identity(seed: int, parameters: np.ndarray, settings: Settings) -> dict[str, float]:
    """What determines a simulation, as it is kept beside its maps."""
    omega_m, sigma_8 = (float(value) for value in parameters)
    return {"seed": int(seed), "omega_m": omega_m, "sigma_8": sigma_8, **asdict(settings)}


def _compute(job: tuple[Path, dict[str, Any]]) -> None:
    from models.density_fields.simulator import Settings, simulate

    path, known = job
    arguments = dict(known)
    seed, omega_m, sigma_8 = (arguments.pop(name) for name in ("seed", "omega_m", "sigma_8"))
    result = simulate(seed, omega_m, sigma_8, Settings(**arguments))
    write_part(path, known, maps=np.asarray(result.maps), power=np.asarray(result.power))


def write_part(path: Path, known: dict[str, Any], **arrays: np.ndarray) -> None:
    """Write the file of one simulation, with what determines it; it appears whole or not at all."""
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial")
    with open(partial, "wb") as file:
        np.savez(file, **arrays, names=list(known), values=list(known.values()))  # pyright: ignore[reportArgumentType]
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def read_part(path: Path, known: dict[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of :func:`write_part`.

    Raises:
        ValueError: something else determined them.
    """
    with np.load(path, allow_pickle=False) as file:
        found = dict(zip(file["names"].tolist(), file["values"].tolist(), strict=True))
        if found != {name: float(value) for name, value in known.items()}:
            raise ValueError(f"{path} is another simulation: expected {known}, got {found}; use another folder")
        return {name: file[name] for name in file.files if name not in ("names", "values")}


def assemble(chosen: SimulationSet, jobs: list[tuple[Path, dict[str, Any]]], folder: Path, settings: Settings) -> None:
    """Write maps, parameters and spectra of a complete set; each file appears whole or not at all."""
    from models.density_fields.simulator import wavenumbers

    size, powers = settings.size, []
    stem = f"Maps_Mcdm_JaxPM_{chosen.name}_z=0.00"
    partial = folder / f".{stem}.partial"
    shape = (MAPS_PER_SIMULATION * len(jobs), size, size)
    maps = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float32, shape=shape)
    for index, (path, known) in enumerate(jobs):
        part = read_part(path, known)
        maps[index * MAPS_PER_SIMULATION : (index + 1) * MAPS_PER_SIMULATION] = part["maps"]
        powers.append(part["power"])
    maps.flush()
    del maps
    k, modes = wavenumbers(settings)
    spectra = folder / f".spectra_{chosen.name}_JaxPM.partial"
    with open(spectra, "wb") as file:
        np.savez(file, k=k, modes=modes, power=np.stack(powers), parameters=chosen.parameters, seeds=chosen.seeds)
    rows = folder / f".params_{chosen.name}_JaxPM.partial"
    np.savetxt(rows, chosen.parameters, fmt="%.8f", header="Omega_m sigma_8")
    spectra.replace(folder / f"spectra_{chosen.name}_JaxPM.npz")
    rows.replace(folder / f"params_{chosen.name}_JaxPM.txt")
    partial.replace(folder / f"{stem}.npy")
