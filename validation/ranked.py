"""What a calibration study says of each quantity, as figures."""

from __future__ import annotations

import numpy as np

from bayesdiff.calibration import Sbc, central_coverage
from validation.figures import Figure

LEVELS = (0.68, 0.95)


def quantity_figures(label: str, study: Sbc) -> list[Figure]:
    """Mean |z|, mean z and coverage of central intervals of every quantity of a study."""
    covered = central_coverage(study.ranks[study.ranked], study.num_draws, np.array(LEVELS)).coverage
    figures = []
    for i, name in enumerate(study.names):
        z = study.z[:, i]
        figures.append(Figure(f"{label}: {name}: mean |z|", float(np.nanmean(np.abs(z)))))
        figures.append(Figure(f"{label}: {name}: mean z", float(np.nanmean(z))))
        for level, share in zip(LEVELS, covered[:, i], strict=True):
            figures.append(Figure(f"{label}: {name}: truths in the central {level:.0%} interval", float(share)))
    return figures
