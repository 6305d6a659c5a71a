"""CAMB spectra over the box of (H0, omega_b) on which the emulator is defined.

The table is a tensor grid of Chebyshev nodes: log C_ell is analytic in the two parameters, so its polynomial
interpolant converges geometrically and a few hundred spectra determine it everywhere in the box. Spectra are written
one file each, so an interrupted run continues where it stopped.
"""

from __future__ import annotations

import os
from multiprocessing import get_context
from pathlib import Path

import numpy as np

BOX = {"H0": (50.0, 90.0), "omega_b": (0.0075, 0.0567)}
LMAX = 2500
GRID_SHAPE = (24, 16)
NUM_TEST = 200
FIXED = {"omch2": 0.12, "omk": 0.0, "tau": 0.0544, "ns": 0.9649, "As": float(np.exp(3.044)) * 1e-10, "mnu": 0.08}


def camb_spectrum(H0: float, omega_b: float) -> np.ndarray:
    """Lensed temperature spectrum C_ell [muK^2] for ell = 0..2500, from CAMB itself.

    Args:
        H0: Hubble constant [km/s/Mpc].
        omega_b: physical baryon density Omega_b h^2.
    """
    import camb

    params = camb.set_params(H0=H0, ombh2=omega_b, lmax=LMAX + 100, **FIXED)  # pyright: ignore[reportArgumentType]
    results = camb.get_results(params)
    return results.get_lensed_scalar_cls(lmax=LMAX, CMB_unit="muK", raw_cl=True)[:, 0]


def chebyshev_nodes(num: int, low: float, high: float) -> np.ndarray:
    """Chebyshev nodes of the first kind, ascending, in (low, high)."""
    nodes = -np.cos(np.pi * (np.arange(num) + 0.5) / num)
    return 0.5 * (low + high) + 0.5 * (high - low) * nodes


def training_parameters() -> np.ndarray:
    """The (H0, omega_b) of the table, shape (384, 2), omega_b varying fastest."""
    axes = [chebyshev_nodes(num, *BOX[name]) for num, name in zip(GRID_SHAPE, BOX, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)


def test_parameters() -> np.ndarray:
    """The (H0, omega_b) of the spectra kept out of training, uniform over the box, shape (200, 2)."""
    low, high = np.array(list(BOX.values())).T
    return np.random.default_rng(20260101).uniform(low, high, size=(NUM_TEST, 2))


def _compute(job: tuple[Path, np.ndarray]) -> None:
    path, parameters = job
    partial = path.with_suffix(f".partial{os.getpid()}")
    with open(partial, "wb") as file:
        np.save(file, camb_spectrum(*parameters))
    partial.rename(path)


def build_table(folder: Path, subset: str, processes: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Compute (or read back) the spectra of ``subset``, ``"train"`` or ``"test"``.

    Returns:
        Parameters, shape (N, 2), and spectra [muK^2] for ell = 0..2500, shape (N, 2501).
    """
    parameters = {"train": training_parameters, "test": test_parameters}[subset]()
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{subset}_{index:04d}.npy" for index in range(len(parameters))]
    missing = [job for job in zip(paths, parameters, strict=True) if not job[0].exists()]
    if missing:
        os.environ["OMP_NUM_THREADS"] = "1"
        with get_context("spawn").Pool(processes) as pool:
            for done, _ in enumerate(pool.imap_unordered(_compute, missing), start=1):
                if done % 20 == 0 or done == len(missing):
                    print(f"CAMB {subset}: {done} of {len(missing)} spectra", flush=True)
    return parameters, np.stack([np.load(path) for path in paths])
