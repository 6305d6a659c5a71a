"""How a posterior fails where its model is wrong, and whether the observation alone tells.

The model is the analytic twin, Gaussian dust behind a CMB of unknown cosmology and amplitude. Its data are simulated by
itself and by what it does not know: dust of an MHD simulation and of the Planck sky, whose law is not Gaussian; a CMB
cut from curved skies, which is not periodic; instrument noise of twice its level. The posteriors are those of NUTS on
the closed form, so that nothing but the model is wrong. Beside the ranks stands the share of observations that the
posterior predictive checks flag, as `bd.reporting.verdict` does for one observation; no truth is asked for it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import bayesdiff as bd
from bayesdiff.cosmology import cmb_spectrum, dust_cmb_noise_components
from bayesdiff.cosmology.curved_sky import simulate_curved_patches
from bayesdiff.cosmology.emulator import LMIN
from bayesdiff.cosmology.flat_sky import cmb_power
from bayesdiff.diffusion.noise import colour
from bayesdiff.fields.patches import regrid
from bayesdiff.windows import MapWindows
from models.dust_cmb.data import DATA_FILE, load_dust_maps
from models.dust_cmb.model import PRIOR_BOUNDS, make_model
from models.linear_gaussian import PIXEL_ARCMIN, make_twin
from models.shared_data import data_folder
from validation.alarms import look_at_first
from validation.figures import RESULTS, Figure, above, below
from validation.ranked import quantity_figures

SIZE = 32
NUM, NUM_LOOKED = 300, 40
NUM_FIELDS, NUM_REPLICATES = 39, 100
NUM_SKIES, PATCHES_PER_SKY = 150, 20
NOISE_RMS, WRONG_NOISE_RMS = 0.1, 0.2
KEY = 17
PARAMETERS = tuple(PRIOR_BOUNDS)
OWN = "its own data"


class Source(NamedTuple):
    """An array of a file, and the side of its pixels."""

    file: str
    array: str
    pixel_arcmin: float


PLANCK = Source("dust_planck2013_ebv_north.npz", "ngp", 2.37)


def run(folder: Path = RESULTS / "misspecification") -> list[Figure]:
    """All figures of this study, and a page for each kind of data."""
    twin = make_twin(SIZE)
    figures = []
    for name, simulator in kinds(twin, folder).items():
        figures += judged(name, twin, simulator, folder / name.replace(" ", "_").lower())
    return figures


def judged(name: str, twin: bd.DiffusionModel, simulator: Callable, folder: Path) -> list[Figure]:
    """Calibration of the twin's posterior on one kind of data, and how often the observation is flagged."""
    key, model = jax.random.key(KEY), make_model(twin)
    study = bd.calibration.sbc(
        key, model, algorithm=bd.NUTS(num_warmup=400), num_simulations=NUM, num_samples=500, simulator=simulator,
        store=folder / "study.sbc",
    )  # fmt: skip
    bd.reporting.write_calibration_report(study, folder, title=f"The twin on {name}", notes=(str(__doc__),))
    flagged, kinds_found = 0, {"replicated": 0, "separated": 0}
    looks = look_at_first(key, model, study, simulator, twin.name, NUM_LOOKED, NUM_FIELDS, NUM_REPLICATES)
    for found in (looked.findings for looked in looks):
        flagged += bool(found)
        for kind in kinds_found:
            kinds_found[kind] += any(kind in sentence for sentence in found)
    figures = [
        Figure(f"{name}: smallest adjusted p-value of the ranks", float(study.tests.adjusted.min())),
        Figure(f"{name}: simulations that failed", f"{len(study.failed)} of {NUM}"),
    ]
    if name == OWN:
        figures[0] = above(figures[0].name, float(study.tests.adjusted.min()), 0.01)
    figures += quantity_figures(name, study)
    share = flagged / NUM_LOOKED
    label = f"{name}: observations of {NUM_LOOKED} that are flagged, share"
    # One false alarm in forty would be chance.
    figures.append(below(label, share, 0.051) if name == OWN else Figure(label, share))
    for kind, number in kinds_found.items():
        figures.append(Figure(f"{name}: flagged by {kind} data, share", number / NUM_LOOKED, detail=True))
    return figures


def kinds(twin: bd.DiffusionModel, folder: Path) -> dict[str, Callable[[jax.Array], dict[str, jax.Array]]]:
    """Simulators of every kind of data: the parameters from their prior, and y."""
    own = partial(simulate, partial(twin_dust, twin), partial(flat_noise, NOISE_RMS))
    held_out = MapWindows(jnp.asarray(load_dust_maps().held_out), SIZE, periodic=(False, True))
    planck = MapWindows(jnp.asarray(planck_map()), SIZE, periodic=(False, False))
    other = MapWindows(jnp.asarray(polarisation_maps()), SIZE, periodic=(True, True))
    flat = partial(flat_noise, NOISE_RMS)
    skies = curved_skies(folder / "skies.npz", SIZE, PIXEL_ARCMIN, NUM_SKIES)
    return {
        OWN: own,
        "dust of an MHD simulation": partial(simulate, held_out.draw, flat),
        "dust of MHD Q and U": partial(simulate, other.draw, flat),
        "dust of the Planck sky": partial(simulate, planck.draw, flat),
        "CMB of curved skies": partial(simulate_on_skies, partial(twin_dust, twin), skies),
        "twice the instrument noise": partial(simulate, partial(twin_dust, twin), partial(flat_noise, WRONG_NOISE_RMS)),
    }


def simulate(dust: Callable, noise: Callable, key: jax.Array) -> dict[str, jax.Array]:
    """Parameters from the prior, and a mixture of dust(key) and noise(key, H0, omega_b)."""
    keys = dict(zip((*PARAMETERS, "dust", "noise"), jax.random.split(key, 5), strict=True))
    values = {
        name: jax.random.uniform(keys[name], minval=low, maxval=high) for name, (low, high) in PRIOR_BOUNDS.items()
    }
    rest = noise(keys["noise"], values["H0"], values["omega_b"])
    return values | {"y": dust(keys["dust"]) + values["sigma"] * rest}


def simulate_on_skies(dust: Callable, skies: dict[str, jax.Array], key: jax.Array) -> dict[str, jax.Array]:
    """The same with the CMB of a patch of a curved sky, which knows its cosmology."""
    keys = jax.random.split(key, 5)
    index = jax.random.randint(keys[0], (), 0, len(skies["H0"]))
    patch = skies["patches"][index, jax.random.randint(keys[1], (), 0, skies["patches"].shape[1])]
    sigma = jax.random.uniform(keys[2], minval=PRIOR_BOUNDS["sigma"][0], maxval=PRIOR_BOUNDS["sigma"][1])
    noise = patch[None] + NOISE_RMS * jax.random.normal(keys[3], (1, SIZE, SIZE))
    y = dust(keys[4]) + sigma * noise
    return {"H0": skies["H0"][index], "omega_b": skies["omega_b"][index], "sigma": sigma, "y": y}


def twin_dust(twin: bd.DiffusionModel, key: jax.Array) -> jax.Array:
    """A draw of the twin's Gaussian dust."""
    return bd.DiffusionPrior(twin, tuple(0.5 * sum(PRIOR_BOUNDS[name]) for name in twin.context_names)).sample(key)


def flat_noise(noise_rms: float, key: jax.Array, H0: jax.Array, omega_b: jax.Array) -> jax.Array:
    """A periodic CMB of unit variance with instrument noise of this rms."""
    components = dust_cmb_noise_components((SIZE, SIZE), PIXEL_ARCMIN, noise_rms=noise_rms)
    power = bd.StationaryNoise(components).power(jnp.stack([H0, omega_b]), (1, SIZE, SIZE))
    return colour(jax.random.normal(key, (1, SIZE, SIZE)), power)


def curved_skies(path: Path, size: int, pixel_arcmin: float, num: int) -> dict[str, jax.Array]:
    """Patches of ``num`` curved skies over the prior of the cosmology, in the model's unit of the CMB; kept once made.

    They have waves longer than a patch, do not close at its edges, and hold what is smaller than a pixel folded back.
    """
    if not path.exists():
        rng = np.random.default_rng(KEY)
        H0, omega_b = (rng.uniform(*PRIOR_BOUNDS[name], num) for name in ("H0", "omega_b"))
        patches = []
        for index, point in enumerate(zip(H0, omega_b, strict=True)):
            spectrum = np.concatenate([np.zeros(LMIN), np.asarray(cmb_spectrum(*point), float)])
            power = cmb_power(*point, (size, size), pixel_arcmin, normalise=False)
            sky = simulate_curved_patches(index, spectrum, PATCHES_PER_SKY, size, pixel_arcmin)
            patches.append(sky / np.sqrt(np.mean(np.asarray(power))))
        path.parent.mkdir(parents=True, exist_ok=True)
        partial_path = path.with_suffix(".partial.npz")
        np.savez(partial_path, H0=H0, omega_b=omega_b, patches=np.stack(patches).astype(np.float32))
        partial_path.rename(path)
    with np.load(path, allow_pickle=False) as file:
        return {name: jnp.asarray(file[name]) for name in ("H0", "omega_b", "patches")}


def polarisation_maps() -> np.ndarray:
    """Q and U of the MHD simulation, standardised, (2, 1, 512, 512): of the same cloud, of another law."""
    with np.load(data_folder(DATA_FILE) / DATA_FILE, allow_pickle=False) as file:
        return np.stack([standardised(file[name].astype(np.float64)) for name in ("Q_1", "U_1")])[:, None]


def planck_map() -> np.ndarray:
    """The Planck map at the pixels of the model, standardised, (1, 1, rows, columns)."""
    with np.load(data_folder(PLANCK.file) / PLANCK.file, allow_pickle=False) as file:
        field = regrid(file[PLANCK.array].astype(np.float64), PIXEL_ARCMIN / PLANCK.pixel_arcmin)
    return standardised(field)[None, None]


def standardised(field: np.ndarray) -> np.ndarray:
    """Zero mean and unit variance, float32."""
    return ((field - field.mean()) / field.std()).astype(np.float32)
