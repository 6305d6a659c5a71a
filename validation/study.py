"""The study from start to report: time and memory of the default run, and real dust maps through the command line."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

from models.shared_data import data_folder
from validation.chains import PARAMETERS
from validation.figures import RESULTS, Figure, above, below

REAL_MAP, REAL_PIXEL_ARCMIN, NUM_PATCHES = "dust_planck2013_ebv_north.npz:ngp", "2.37", 4


def timing(folder: Path = RESULTS / "default_run") -> list[Figure]:
    """The default run, compile time included, on two cores."""
    clock = time.perf_counter()
    code = _study(folder)
    seconds = time.perf_counter() - clock
    gigabytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024**2
    summary = _summary(folder)
    return [
        below("default run from start to report [s]", seconds, 300.0),
        below("peak memory of the run [GiB]", gigabytes, 4.0),
        above("smallest bulk ESS", float(summary.loc[list(PARAMETERS), "ess_bulk"].min()), 400.0),
        below("largest R-hat", float(summary.loc[list(PARAMETERS), "rhat"].max()), 1.01),
        Figure("exit code (0: converged)", float(code)),
    ]


def real(folder: Path = RESULTS / "real") -> list[Figure]:
    """Four disjoint patches of the Planck 2013 dust map, each with its own simulated CMB and noise."""
    figures = []
    for patch in range(NUM_PATCHES):
        output = folder / f"patch_{patch}"
        file, array = REAL_MAP.split(":")
        path = f"{data_folder(file) / file}:{array}"
        _study(output, "--map", path, "--pixel-arcmin", REAL_PIXEL_ARCMIN, "--patch", str(patch), "--seed", str(patch))
        summary = _summary(output).loc[list(PARAMETERS)]
        for name, row in summary.iterrows():
            text = f"{row['mean']:.4g} ± {row['sd']:.2g}, z {row['z']:+.1f}"
            figures.append(Figure(f"patch {patch}: {name}, {row['truth']:.4g} put in", text))
        figures.append(Figure(f"patch {patch}: largest R-hat", float(summary["rhat"].max())))
        verdict = (output / "verdict.txt").read_text().splitlines()[0]
        figures.append(Figure(f"patch {patch}: verdict", verdict.split(":")[0]))
    return figures


def _study(output: Path, *options: str) -> int:
    shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, "-m", "inference", "dust_cmb", "--output", str(output), *options]
    done = subprocess.run(command, check=False, env={**os.environ, "COLUMNS": "100"})
    if not (output / "report.html").exists():
        raise RuntimeError(f"the run ended with exit code {done.returncode} and without a report: {' '.join(command)}")
    return done.returncode


def _summary(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "summary.csv", index_col=0)
