"""Calibration of the reconstruction of dark matter: held-out simulations among the draws that their stars allow.

The truth is ranked in the mass of a quarter of the map and in the highest pixel. The model is that of ``python -m
validation sbc dark_matter``; masses of discs, spectra and correlations are judged in the study ``dark_matter``.
"""

from __future__ import annotations

from pathlib import Path

import jax

import bayesdiff as bd
from models.dark_matter.prior import NAME
from validation.field_calibration import of_study
from validation.figures import RESULTS, Figure
from validation.problems import Asked, Name, make_problem

NUM, NUM_CHAINS, NUM_SAMPLES, KEY = 50, 2, 150, 47
# Unit normal values, nothing else: the network is asked for the kept draws alone.
ALGORITHM = bd.NUTS(num_warmup=100, dense_mass=False)


def run(folder: Path = RESULTS / "dark_matter_calibration") -> list[Figure]:
    """Ranks of both quantities, and their page."""
    problem = make_problem(Name.dark_matter, Asked())
    study = bd.calibration.sbc(
        jax.random.key(KEY),
        problem.model,
        algorithm=ALGORITHM,
        num_simulations=NUM,
        num_chains=NUM_CHAINS,
        num_samples=NUM_SAMPLES,
        parameters=problem.ranked,
        quantities=problem.quantities,
        simulator=problem.simulator,
        store=folder / "study.sbc",
    )
    title = f"{NAME}: dark matter of held-out simulations from their stars"
    bd.reporting.write_calibration_report(study, folder, title=title, notes=(problem.about, str(__doc__)))
    return of_study("held-out simulations", study, required=False)
