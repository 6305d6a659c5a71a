"""The shipped dust prior: its draws against the training maps, its denoiser against the Wiener filter, memorisation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from rich.console import Console
from rich.table import Table

import bayesdiff as bd
from bayesdiff.networks.wiener import WienerDenoiser
from bayesdiff.recalibration import with_contrast
from models.draws import BAND_EDGES, draw_fields
from models.dust_cmb.prior import CONTRAST
from models.dust_cmb.quality import compare_draws, denoising_table
from validation.figures import Figure, above, below

NAME = "dust-cmb-64"


def run() -> list[Figure]:
    """All figures of this study."""
    model = bd.load_pretrained(NAME)
    assert isinstance(model.denoiser, WienerDenoiser)
    statistics = compare_draws(draw_fields(model))
    _print_power(statistics)
    held_out, training = denoising_table(model), denoising_table(model, training=True)
    _print_denoising(held_out)
    gain = {
        name: np.array(x["network"]) / np.array(x["wiener"]) for name, x in (("held", held_out), ("seen", training))
    }
    unseen = (gain["held"] / gain["seen"]).mean(axis=1)
    plain = compare_draws(draw_fields(replace(model, denoiser=with_contrast(model.denoiser, 1.0))))
    worst = float(np.max(np.abs(np.array(statistics["power_ratio"]) - 1.0)))
    minkowski = statistics["minkowski_largest_difference"]
    skewness = statistics["skewness"] / statistics["skewness_training"]
    return [
        below("power spectrum of 256 draws: largest relative difference from training, to 0.8 Nyquist", worst, 0.10),
        below("one-point standard deviation: relative difference", abs(statistics["sd_ratio"] - 1.0), 0.05),
        below(
            "one-point skewness: relative difference",
            abs(skewness - 1.0),
            0.15,
        ),
        above(
            "median nearest-training-patch distance, draws over held-out region",
            statistics["nearest_patch_draws"] / statistics["nearest_patch_held_out"],
            1.0,
        ),
        Figure("mean power ratio, draws over training", float(np.mean(statistics["power_ratio"]))),
        Figure(f"the same without the factor {CONTRAST:g} in draws", float(np.mean(plain["power_ratio"]))),
        *(
            Figure(f"denoiser's error over the Wiener filter's, held-out over training windows, s = {s:g}", float(x))
            for s, x in zip(held_out["noise_levels"], unseen, strict=True)
        ),
        Figure("variance of training windows, 95th over 5th percentile", statistics["variance_spread_training"]),
        *(Figure(f"Minkowski V{i}: largest difference over its maximum", float(x)) for i, x in enumerate(minkowski)),
    ]


def _print_power(statistics: dict) -> None:
    table = Table("|k| [fundamental]", "power, draws / training", "sampling error", title="256 draws of the prior")
    columns = (BAND_EDGES[:-1], BAND_EDGES[1:], statistics["power_ratio"], statistics["power_ratio_error"])
    for low, high, ratio, error in zip(*columns, strict=True):
        table.add_row(f"{low:g} to {high:g}", f"{ratio:.3f}", f"{error:.3f}")
    Console(width=120).print(table)


def _print_denoising(rows: dict) -> None:
    bands = len(rows["network"][0])
    headers = [f"band {i}" for i in range(bands)]
    table = Table(
        "s",
        *headers,
        title="Held-out dust: mean square error, network over Wiener filter, by radial band (0 = largest scales)",
    )
    for s, network, wiener in zip(rows["noise_levels"], rows["network"], rows["wiener"], strict=True):
        table.add_row(f"{s:g}", *(f"{n / w:.2f}" for n, w in zip(network, wiener, strict=True)))
    Console(width=120).print(table)
