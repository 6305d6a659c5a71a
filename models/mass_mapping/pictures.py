"""Pictures of a mass map: the shear, the Wiener reconstruction, and the posterior with its uncertainty."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from bayesdiff.reporting import Panel, panels_figure
from models.mass_mapping.data import PIXEL_ARCMIN, ShearMap
from models.mass_mapping.wiener import WienerMap

CAPTION = (
    "Convergence of a source at the redshift of the simulations. The outline is that of the observed pixels; beyond it "
    "the prior speaks. The Wiener mean, the posterior mean, the draws and the truth, where it is known, share one "
    "colour scale. A mean is smoother than any draw; signal-to-noise is the posterior mean over its standard deviation."
)


def maps_figure(observed: ShearMap, draws: np.ndarray, wiener: WienerMap) -> Figure:
    """Both components of the shear, Wiener mean, posterior mean, two draws, standard deviations, signal-to-noise.

    Args:
        observed: shear and survey, with the truth where it is known.
        draws: of the convergence, (num, 1, H, W), num at least 2.
        wiener: the Wiener reconstruction.

    Raises:
        ValueError: for fewer than two draws.
    """
    if len(draws) < 2:
        raise ValueError(f"a standard deviation takes at least 2 draws, got {len(draws)}")
    return panels_figure(panels_of(observed, draws, wiener), observed.survey.mask, PIXEL_ARCMIN)


def panels_of(observed: ShearMap, draws: np.ndarray, wiener: WienerMap) -> list[Panel]:
    """What is shown, row by row."""
    mask = np.asarray(observed.survey.mask, dtype=bool)
    mean, sd = draws.mean(axis=0)[0], draws.std(axis=0)[0]
    picks = draws[0, 0], draws[len(draws) // 2, 0]
    low, high = np.quantile(np.stack([mean, *picks]), [0.005, 0.995])
    scale = float(low), float(high)
    shear = float(np.quantile(np.abs(observed.shear[:, mask]), 0.99))
    spread = 0.0, float(np.quantile(np.stack([sd, wiener.sd[0]]), 0.995))
    signal = mean / np.maximum(sd, 1e-12)
    largest = max(float(np.quantile(np.abs(signal), 0.998)), 1.0)
    truth = None if observed.truth is None else observed.truth.get("kappa")
    top = [
        Panel("shear $e_1$", observed.shear[0], "RdBu_r", (-shear, shear), masked=True),
        Panel("shear $e_2$", observed.shear[1], "RdBu_r", (-shear, shear), masked=True),
        Panel("Wiener mean", wiener.mean[0], "viridis", scale),
        Panel("posterior mean", mean, "viridis", scale),
    ]
    bottom = [
        Panel("posterior draw 1", picks[0], "viridis", scale),
        Panel("posterior draw 2", picks[1], "viridis", scale),
        Panel("Wiener s.d.", wiener.sd[0], "cividis", spread),
        Panel("posterior s.d.", sd, "cividis", spread),
    ]
    last = Panel("signal-to-noise", signal, "RdBu_r", (-largest, largest))
    # Two rows of equal length: without a truth the difference to the Wiener mean stands beside it.
    if truth is not None:
        return [*top, Panel("truth", truth[0], "viridis", scale), *bottom, last]
    difference = mean - wiener.mean[0]
    reach = float(np.quantile(np.abs(difference), 0.995)) or 1.0
    return [*top, Panel("posterior minus Wiener", difference, "RdBu_r", (-reach, reach)), *bottom, last]
