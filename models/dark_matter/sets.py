"""Stellar maps of the simulations of :mod:`models.density_fields.sets`, in the files of CAMELS' Multifield dataset.

``Maps_Mstar_JaxPM-<recipe>_LH_z=0.00.npy``, (15 N, 64, 64) float32, has a map for every map of
``Maps_Mcdm_JaxPM_LH_z=0.00.npy``, by each recipe of :mod:`models.dark_matter.stars`, and ``feedback_LH_JaxPM.txt`` a
row of A_wind and A_engine per simulation. The simulations are made again, to the same bits, because their particles
were not kept.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.density_fields.data import MAPS_PER_SIMULATION
from models.density_fields.sets import SimulationSet, compute_missing, identity, read_part, write_part

if TYPE_CHECKING:
    from models.density_fields.simulator import Settings


def generate(
    chosen: SimulationSet,
    folder: Path,
    processes: int = 2,
    settings: Settings | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Compute the stars of a set that are missing in ``folder``, and assemble their maps.

    Args:
        chosen: the set of simulations.
        folder: of the assembled files; single simulations lie in ``stars/`` in it.
        processes: that share the work, with one thread each.
        settings: of every simulation.
        say: is told now and then how far it is.

    Raises:
        ValueError: ``folder`` holds stars of other simulations or recipes under these names.
    """
    from models.dark_matter.stars import FEEDBACK_BOUNDS, NUMBER_DENSITY, RECIPES
    from models.density_fields.simulator import Settings

    settings = settings or Settings()
    parts = Path(folder) / "stars"
    parts.mkdir(parents=True, exist_ok=True)
    jobs = [
        (parts / f"{chosen.name}_{i:04d}.npz", identity(seed, row, settings) | {"number_density": NUMBER_DENSITY})
        for i, (seed, row) in enumerate(zip(chosen.seeds, chosen.parameters, strict=True))
    ]
    compute_missing(f"stars of {chosen.name}", jobs, _compute, processes, say)
    shape = (MAPS_PER_SIMULATION * len(jobs), settings.size, settings.size)
    names = {recipe: f"Maps_Mstar_JaxPM-{recipe}_{chosen.name}_z=0.00" for recipe in RECIPES}
    files = {
        recipe: np.lib.format.open_memmap(folder / f".{name}.partial", mode="w+", dtype=np.float32, shape=shape)
        for recipe, name in names.items()
    }
    feedback = np.empty((len(jobs), len(FEEDBACK_BOUNDS)))
    for index, (path, known) in enumerate(jobs):
        part = read_part(path, known)
        feedback[index] = part["feedback"]
        for recipe, maps in zip(RECIPES, part["maps"], strict=True):
            files[recipe][index * MAPS_PER_SIMULATION : (index + 1) * MAPS_PER_SIMULATION] = maps
    rows = folder / f".feedback_{chosen.name}_JaxPM.partial"
    np.savetxt(rows, feedback, fmt="%.8f", header=" ".join(FEEDBACK_BOUNDS))
    rows.replace(folder / f"feedback_{chosen.name}_JaxPM.txt")
    for recipe, name in names.items():
        files[recipe].flush()
        (folder / f".{name}.partial").replace(folder / f"{name}.npy")


def _compute(job: tuple[Path, dict[str, Any]]) -> None:
    from models.dark_matter.stars import paint
    from models.density_fields.simulator import Settings

    path, known = job
    arguments = dict(known)
    seed, omega_m, sigma_8 = (arguments.pop(name) for name in ("seed", "omega_m", "sigma_8"))
    del arguments["number_density"]
    painted = paint(seed, omega_m, sigma_8, Settings(**arguments))
    write_part(path, known, maps=painted.maps, feedback=painted.feedback)


def mean_galaxies_per_pixel(settings: Settings | None = None) -> float:
    """Mean number of galaxies behind a pixel of a slab, over feedback."""
    from models.dark_matter.stars import FEEDBACK_BOUNDS, NUMBER_DENSITY
    from models.density_fields.simulator import NUM_SLABS, Settings

    settings = settings or Settings()
    low, high = FEEDBACK_BOUNDS["A_wind"]
    # The mean of A^(-1/2) for A log-uniform.
    mean = 2.0 * (low**-0.5 - high**-0.5) / np.log(high / low)
    return float(NUMBER_DENSITY * mean * settings.box**3 / NUM_SLABS / settings.size**2)
