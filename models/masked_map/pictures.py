"""Pictures of a masked map: what was observed, the posterior with its uncertainty, and the truth where it is known."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from bayesdiff.reporting import Panel, panels_figure
from models.masked_map.observation import MaskedMap

CAPTION = (
    "The outline is that of the observed pixels; within holes the prior and the pixels around speak. The posterior "
    "mean, the draws and the truth, where it is known, share one colour scale. A mean is smoother than any draw; the "
    "draws are what the field may look like."
)


def maps_figure(observed: MaskedMap, draws: np.ndarray, pixel_arcmin: float) -> Figure:
    """Observation, noise, posterior mean and standard deviation, draws, and the error where the truth is known.

    Args:
        observed: map, mask and noise, with the truth where it is known.
        draws: of the field, (num, 1, H, W), num at least 2.
        pixel_arcmin: side of a pixel [arcmin].

    Raises:
        ValueError: for fewer than two draws.
    """
    if len(draws) < 2:
        raise ValueError(f"a standard deviation takes at least 2 draws, got {len(draws)}")
    mean, sd = draws.mean(axis=0)[0], draws.std(axis=0)[0]
    picks = draws[0, 0], draws[len(draws) // 2, 0]
    low, high = (float(x) for x in np.quantile(np.stack([mean, *picks]), [0.005, 0.995]))
    spread = 0.0, float(np.quantile(sd, 0.995))
    noise = np.asarray(observed.relative_noise)
    observation = Panel("observed", observed.y[0], "viridis", (low, high), masked=True)
    relative = Panel("relative noise", noise, "cividis", (0.0, float(noise[observed.mask].max())), masked=True)
    average, deviation = Panel("posterior mean", mean, "viridis", (low, high)), Panel("s.d.", sd, "cividis", spread)
    first, second = (Panel(f"draw {i + 1}", pick, "viridis", (low, high)) for i, pick in enumerate(picks))
    if observed.truth is None:
        panels = [observation, average, deviation, relative, first, second]
    else:
        truth = np.asarray(observed.truth["x"])[0]
        error = (mean - truth) / np.maximum(sd, 1e-12)
        missed = Panel("(mean - truth) / s.d.", error, "RdBu_r", (-3.0, 3.0))
        panels = [observation, Panel("truth", truth, "viridis", (low, high)), average, deviation]
        panels += [relative, first, second, missed]
    return panels_figure(panels, observed.mask, pixel_arcmin)
