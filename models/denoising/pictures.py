"""Pictures of what a prior draws beside fields that it has not seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def draw_generated(draws: np.ndarray, held_out: np.ndarray, path: Path, title: str, num: int = 6) -> None:
    """Draws above, held-out fields below, on one colour scale.

    Args:
        draws: of the prior, (num, 1, H, W).
        held_out: fields (num, 1, H, W) of maps that it has not seen.
        path: of the picture.
        title: what is shown.
        num: fields of each.
    """
    from matplotlib.figure import Figure

    low, high = np.quantile(held_out, [0.005, 0.995])
    figure = Figure(figsize=(2.0 * num + 0.8, 4.6), layout="constrained")
    axes = figure.subplots(2, num)
    image = None
    for row, (name, fields) in enumerate((("drawn", draws), ("held out", held_out))):
        some = np.linspace(0, len(fields) - 1, num).astype(int)
        for axis, index in zip(axes[row], some, strict=True):
            image = axis.imshow(fields[index, 0], origin="lower", vmin=low, vmax=high, cmap="inferno")
            axis.set_xticks([])
            axis.set_yticks([])
        axes[row, 0].set_ylabel(name)
    assert image is not None
    figure.colorbar(image, ax=axes, label="field [standard deviations]", shrink=0.8)
    figure.suptitle(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
