"""The reconstruction of dark matter from stars: correlation with the truth, masses of regions, wide fields, cosmology.

Truths are slabs of the 150 held-out simulations, with stars by the recipe of the training and by two that it has not
seen. The scale where shot noise takes over is that at which half of the power of the stellar map is the noise of its
galaxies, whose masses are exponential: 2 / (galaxies per pixel) of a map over its mean. Of a Gaussian field that stars
follow exactly, a draw from the posterior correlates with the truth by 1 less the share of the noise in the power of the
stars, and by no more if they do not; that is shown beside R(k).
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.stats import binom

import bayesdiff as bd
from bayesdiff.diffusion.bound_terms import bound_terms
from models.dark_matter.data import load_pairs
from models.dark_matter.model import NUM_EVALUATIONS, draw
from models.dark_matter.pictures import Reconstruction, maps_figure
from models.dark_matter.prior import NAME, SIMULATIONS, scales_of
from models.dark_matter.quality import reconstruction_errors
from models.dark_matter.regions import disc, mass_in
from models.dark_matter.sets import mean_galaxies_per_pixel
from models.dark_matter.stars import RECIPES
from models.density_fields.baselines import load_baselines
from models.density_fields.data import PARAMETER_BOUNDS, SIZE
from models.density_fields.power_spectrum import draw_parameters, posterior_moments
from validation.field_posteriors import calibration_figures, row
from validation.figures import RESULTS, Figure, above, below, between

FOLDER = RESULTS / "dark_matter"
EDGES = np.array([0.5, 1.5, 2.5, 4.0, 6.0, 8.5, 12.0, 16.0, 20.5, 25.6, 32.0])
OWN = "power"
NUM_FIELDS, NUM_DRAWS, NUM_ACROSS = 200, 19, 100
NUM_COMPARED, MANY_EVALUATIONS = 40, 250
RADIUS, LEVELS = 3.0, (0.68, 0.95)
NUM_PER_FIELD = 20
NUM_TILES, MEMORY = 8, 6.0
NUM_BOUNDS = 8


class Truths:
    """Held-out slabs with the stars of a recipe.

    Attributes:
        density: surface densities, (num, 64, 64).
        field: the same, standardised, (num, 1, 64, 64).
        stars: (num, 64, 64).
        parameters: (num, 2).
    """

    def __init__(self, reconstruction: bd.DiffusionModel, recipe: str, num: int):
        held_out = load_pairs(SIMULATIONS, f"JaxPM-{recipe}").split()[1]
        each = -(-num // held_out.density.num_simulations)
        chosen = held_out.first_of_each(each)
        some = np.linspace(0, len(chosen[0]) - 1, num).astype(int)
        self.density, self.stars, self.parameters = (x[some] for x in chosen)
        self.field = scales_of(reconstruction).density.field(self.density)[:, None]


def run() -> list[Figure]:
    """All figures of this study. Draws and posteriors are kept, so that it continues where it was interrupted."""
    reconstruction = bd.load_pretrained(NAME)
    truths = {recipe: Truths(reconstruction, recipe, NUM_FIELDS if recipe == OWN else NUM_ACROSS) for recipe in RECIPES}
    draws = {
        recipe: drawn(reconstruction, recipe, some, NUM_DRAWS if recipe == OWN else 1)
        for recipe, some in truths.items()
    }
    scale = scales_of(reconstruction).density
    rows = [
        Reconstruction(some.stars[0], scale.mean + scale.sd * draws[r][0, :, 0], np.log10(some.density[0]), f"'{r}'")
        for r, some in truths.items()
    ]
    maps_figure(rows).savefig(FOLDER / "fields.png")
    own = truths[OWN]
    return [
        *errors(reconstruction, own),
        *correlations(truths, draws),
        *regions(reconstruction, own, draws[OWN]),
        *few_steps(reconstruction, own),
        *bounds(reconstruction, own),
        *wide(),
        *cosmologies(own, draws[OWN]),
    ]


def drawn(reconstruction: bd.DiffusionModel, recipe: str, truths: Truths, num: int) -> np.ndarray:
    """Draws (fields, num, 1, 64, 64) given the stars of each field, from disk where they are."""
    out = []
    for index, stars in enumerate(truths.stars):
        path = FOLDER / recipe / f"{index:03d}.npy"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            key = jax.random.fold_in(jax.random.key(41), index)
            partial = path.with_name(f".{path.name}")
            np.save(partial, draw(key, reconstruction, stars, num).astype(np.float32))
            partial.rename(path)
        out.append(np.load(path))
    return np.stack(out)


def errors(reconstruction: bd.DiffusionModel, truths: Truths) -> list[Figure]:
    """Mean square errors beside the linear reconstruction's."""
    maps = jnp.asarray(scales_of(reconstruction).stars.maps(truths.stars))
    found = reconstruction_errors(reconstruction, jnp.asarray(truths.field), maps)
    return [
        below(f"mean square error of E[x | stars, y at s = {s:g}] over the linear reconstruction's", ratio, 1.0)
        for s, ratio in zip(found["noise_levels"], found["error_over_linear"], strict=True)
    ]


def correlations(truths: dict[str, Truths], draws: dict[str, np.ndarray]) -> list[Figure]:
    """R(k) of single draws and of posterior means with the truth, up to where shot noise takes over."""
    limit = shot_noise_limit(truths[OWN].stars)
    figures = [Figure("wavenumber at which shot noise is half of the stars' power [fundamental modes]", limit)]
    bands = [f"{low:g}-{high:g}" for low, high in zip(EDGES, EDGES[1:], strict=False)]
    table = Table("", *bands, title="Correlation with the truth, by |k| in fundamental modes")
    resolved = EDGES[1:] <= limit
    for recipe, some in truths.items():
        bound = 0.9 if recipe == OWN else 0.8
        mass = correlation(*masses(draws[recipe][:, 0], some))
        logarithm = correlation(draws[recipe][:, 0], some.field)
        left = 1.0 - shot_noise_share(some.stars)
        table.add_row(f"{recipe}: 1 - share of shot noise", *(f"{x:.3f}" for x in left))
        label = f"stars '{recipe}': 1 - share of shot noise"
        figures.append(Figure(f"{label}, in the last band", float(left[-1])))
        figures.append(
            Figure(f"{label} is above {bound:g} up to a |k| of [fundamental modes]", reach(left, bound), detail=True)
        )
        for what, values in (("mass", mass), ("log mass", logarithm)):
            table.add_row(f"{recipe}: draws, {what}", *(f"{x:.3f}" for x in values))
            label = f"stars '{recipe}': smallest R(k) of a draw of the {what} up to there"
            figures.append(above(label, values[resolved].min(), bound))
            label = (
                f"stars '{recipe}': R(k) of a draw of the {what} is above {bound:g} up to a |k| of [fundamental modes]"
            )
            figures.append(Figure(label, reach(values, bound)))
    own = draws[OWN]
    mean = correlation(own.mean(axis=1), truths[OWN].field)
    table.add_row(f"{OWN}: posterior mean, log mass", *(f"{x:.3f}" for x in mean))
    ratio = power_of(own[:, 0]).mean(axis=0) / power_of(truths[OWN].field).mean(axis=0)
    table.add_row(f"{OWN}: power of draws / truth", *(f"{x:.3f}" for x in ratio))
    Console(width=160).print(table)
    figures.append(
        Figure(f"stars '{OWN}': smallest R(k) of the posterior mean, log mass, up to there", mean[resolved].min())
    )
    figures.append(Figure(f"stars '{OWN}': largest |power of draws / truth - 1|, all bands", np.abs(ratio - 1).max()))
    return figures


def reach(values: np.ndarray, bound: float) -> float:
    """Upper edge of the last of the bands, from the first on, in which a correlation is above a bound; 0 for none."""
    below_it = np.flatnonzero(values <= bound)
    last = int(below_it[0]) if len(below_it) else len(values)
    return float(EDGES[last]) if last else 0.0


def shot_noise_limit(stars: np.ndarray) -> float:
    """Where the noise of galaxies becomes half of the power of stellar maps over their mean."""
    share = shot_noise_share(stars)
    centres = 0.5 * (EDGES[1:] + EDGES[:-1])
    return float(np.interp(0.5, share, centres)) if share.max() > 0.5 else float(EDGES[-1])


def shot_noise_share(stars: np.ndarray) -> np.ndarray:
    """Share of the noise of galaxies in the power of stellar maps (num, 64, 64) over their mean, (bands,)."""
    return 2.0 / mean_galaxies_per_pixel() / power_of((stars / stars.mean())[:, None]).mean(axis=0)


def power_of(fields: np.ndarray) -> np.ndarray:
    """Banded power of fields (num, 1, 64, 64), (num, bands)."""
    return np.asarray(bd.fields.power_spectrum(fields, edges=EDGES).power, np.float64)[:, 0]


def correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """R(k) of two sets of fields (num, 1, H, W), from their summed spectra."""
    cross = np.asarray(bd.fields.cross_spectrum(a, b, edges=EDGES).power, np.float64)[:, 0].sum(axis=0)
    return cross / np.sqrt(power_of(a).sum(axis=0) * power_of(b).sum(axis=0))


def masses(fields: np.ndarray, truths: Truths) -> tuple[np.ndarray, np.ndarray]:
    """Overdensities of drawn and true surface density."""
    density = scales_of(bd.load_pretrained(NAME)).density.surface_density(fields)
    return tuple(x / x.mean(axis=(-2, -1), keepdims=True) for x in (density, truths.density[:, None]))  # type: ignore[return-value]


def regions(reconstruction: bd.DiffusionModel, truths: Truths, draws: np.ndarray) -> list[Figure]:
    """Coverage of the mass in a random disc, in one about the brightest pixel, and of the quarter of a map."""
    density = scales_of(reconstruction).density.surface_density(draws)[:, :, 0]
    rng, figures = np.random.default_rng(5), []
    quarter = np.zeros((SIZE, SIZE), bool)
    quarter[: SIZE // 2, : SIZE // 2] = True
    centres = rng.uniform(0, SIZE, (len(truths.stars), 2))
    peaks = [np.unravel_index(np.argmax(stars), stars.shape) for stars in truths.stars]
    kinds = {
        f"disc of {RADIUS:g} Mpc/h at random": [disc((SIZE, SIZE), (row, column), RADIUS) for row, column in centres],
        f"disc of {RADIUS:g} Mpc/h about the brightest pixel": [
            disc((SIZE, SIZE), (float(row), float(column)), RADIUS) for row, column in peaks
        ],
        "quarter of a map": [quarter] * len(truths.stars),
    }
    for name, chosen in kinds.items():
        true = np.array([mass_in(x, region) for x, region in zip(truths.density, chosen, strict=True)])
        ours = np.array([mass_in(x, region) for x, region in zip(density, chosen, strict=True)])
        curve = bd.calibration.coverage(true[:, None], ours[:, :, None], levels=LEVELS).central
        for level, value in zip(LEVELS, np.asarray(curve.coverage)[:, 0], strict=True):
            low, high = binom.ppf([0.005, 0.995], len(true), level) / len(true)
            label = f"mass of a {name}: truths in the central {level:.0%} interval, {len(true)} fields"
            figures.append(between(label, float(value), round(float(low), 4), round(float(high), 4)))
        error = np.sqrt(np.mean((np.log(ours.mean(axis=1)) - np.log(true)) ** 2))
        figures.append(Figure(f"mass of a {name}: rms error of its logarithm", float(error)))
    return figures


def few_steps(reconstruction: bd.DiffusionModel, truths: Truths) -> list[Figure]:
    """Draws by the few evaluations of this study against draws by 250, from the same noise."""
    some = truths.stars[:: len(truths.stars) // NUM_COMPARED][:NUM_COMPARED]
    field = truths.field[:: len(truths.stars) // NUM_COMPARED][:NUM_COMPARED]
    keys = [jax.random.fold_in(jax.random.key(42), i) for i in range(len(some))]
    few, many = (
        np.concatenate(
            [draw(key, reconstruction, stars, 1, evaluations) for key, stars in zip(keys, some, strict=True)]
        )
        for evaluations in (NUM_EVALUATIONS, MANY_EVALUATIONS)
    )
    error = power_of(many).std(axis=0, ddof=1) / np.sqrt(len(some))
    difference = np.abs(power_of(few).mean(axis=0) - power_of(many).mean(axis=0)) / error
    label = (
        f"power of draws by {NUM_EVALUATIONS} evaluations less that by {MANY_EVALUATIONS}, in its sample error, largest"
    )
    change = np.abs(correlation(few, field) - correlation(many, field)).max()
    return [below(label, difference.max(), 0.5), Figure("R(k) of the same: largest difference", float(change))]


def bounds(reconstruction: bd.DiffusionModel, truths: Truths) -> list[Figure]:
    """Terms of the bound per pixel, of the network and of its twin, the linear reconstruction."""
    scales = scales_of(reconstruction).stars
    terms = jax.jit(lambda key, model, x: bound_terms(key, model, x))
    found: dict[str, list[Any]] = {"network": [], "twin": []}
    spread = np.linspace(0, len(truths.field) - 1, NUM_BOUNDS).astype(int)
    for i in spread:
        model = reconstruction.given(jnp.asarray(scales.maps(truths.stars[i])))
        x = jnp.asarray(truths.field[i])
        found["network"].append(terms(jax.random.key(43), model, x))
        twin = bd.DiffusionPrior(
            bd.DiffusionModel(model.twin, model.schedule, model.noise, model.event_shape)  # pyright: ignore[reportArgumentType]
        )
        found["twin"].append(float(twin.log_prob(x)))
    size = truths.field[0].size
    figures = [
        Figure(
            f"bound on -log p(x | stars): {name} term [nat per pixel]",
            float(np.mean([getattr(t, name) for t in found["network"]])) / size,
        )
        for name in ("prior", "reconstruction", "diffusion")
    ]
    gain = np.array([float(t.log_density) for t in found["network"]]) - np.array(found["twin"])
    return [
        *figures,
        above(f"bound less the twin's density, mean of {len(gain)} fields [nat per pixel]", gain.mean() / size, 0.0),
    ]


def wide() -> list[Figure]:
    """A field eight times wider, in a process of its own that tells its peak memory."""
    path = FOLDER / "wide.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "validation.dark_matter"], check=True)
    found = json.loads(path.read_text())
    side = NUM_TILES * SIZE
    return [
        below(f"{side} x {side} pixels: peak memory of one draw [GiB]", found["memory_gib"], MEMORY),
        Figure(
            f"{side} x {side} pixels: R(k) of a draw of the mass is above 0.9 up to [fundamental modes of 64]",
            found["reach"],
        ),
        Figure(f"{side} x {side} pixels: seconds of one draw, compiling included", found["seconds"], detail=True),
    ]


def draw_wide_field() -> None:
    """Draw one field from the stars of a mosaic of held-out maps, and keep what :func:`wide` reports."""
    import time

    reconstruction = bd.load_pretrained(NAME)
    truths = Truths(reconstruction, OWN, NUM_TILES**2)
    stars, field = (mosaic(x) for x in (truths.stars, truths.field[:, 0]))
    clock = time.perf_counter()
    ours = draw(jax.random.key(44), reconstruction, stars, 1)[0, 0]
    seconds = time.perf_counter() - clock
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    # Map by map, as what is drawn of one map alone is judged.
    tiles = ours.reshape(NUM_TILES, SIZE, NUM_TILES, SIZE).swapaxes(1, 2).reshape(-1, 1, SIZE, SIZE)
    values = correlation(*masses(tiles, truths))
    FOLDER.mkdir(parents=True, exist_ok=True)
    maps_figure([Reconstruction(stars, ours[None], field)]).savefig(FOLDER / "wide.png")
    found = {"memory_gib": memory, "seconds": seconds, "reach": reach(values, 0.9)}
    (FOLDER / "wide.json").write_text(json.dumps(found))


def mosaic(maps: np.ndarray) -> np.ndarray:
    """Square of maps (n^2, H, W), (n H, n W)."""
    num = int(np.sqrt(len(maps)))
    height, width = maps.shape[1:]
    return maps.reshape(num, num, height, width).swapaxes(1, 2).reshape(num * height, num * width)


def cosmologies(truths: Truths, draws: np.ndarray) -> list[Figure]:
    """(Omega_m, sigma_8) from stars alone, of each drawn field; beside them those of the true fields."""
    spectrum, rng = load_baselines().power_spectrum, np.random.default_rng(6)
    rows = []
    for fields, truth in zip(draws, truths.parameters, strict=True):
        thetas = draw_parameters(rng, spectrum, np.repeat(fields, NUM_PER_FIELD, axis=0))
        rows.append(row(thetas.T, truth, True, len(fields), 0.0))
    names = tuple(PARAMETER_BOUNDS)
    figures = calibration_figures("cosmology from stars", rows, truths.parameters, names)[:-3]  # of samplers
    moments = posterior_moments(spectrum, truths.field)
    for i, name in enumerate(names):
        error = np.sqrt(np.mean((moments.mean[:, i] - truths.parameters[:, i]) ** 2))
        label = f"cosmology from the spectrum of the dark matter itself: {name}: rms error of the mean"
        figures.append(Figure(label, float(error)))
    return figures


if __name__ == "__main__":
    draw_wide_field()
