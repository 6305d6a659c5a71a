"""Dark matter from stars: how stars are drawn, pairs of maps, regions, and the recipe from pairs to a card."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import Predictive
from numpyro.infer.util import log_density
from typer.testing import CliRunner

pytest.importorskip("jaxpm", reason="needs JaxPM: pip install -e '.[simulations]'")

import bayesdiff as bd
from bayesdiff.diffusion.fourier import filter_field
from bayesdiff.diffusion.reconstruction import fit_linear_reconstruction
from bayesdiff.networks.wiener import initialise
from models.__main__ import app
from models.dark_matter import prior, sets, stars
from models.dark_matter.data import Pairs, Scales, StellarScale, check_stars, load_pairs
from models.dark_matter.held_out import HeldOut
from models.dark_matter.model import draw, make_joint_model, make_model, make_model_of_stars
from models.dark_matter.observation import read_stars
from models.dark_matter.pictures import Reconstruction, maps_figure, spectra_figure
from models.dark_matter.quality import reconstruction_errors
from models.dark_matter.regions import disc, mass_in
from models.density_fields.baselines import load_baselines
from models.density_fields.data import MAPS_PER_SIMULATION, PIXEL
from models.density_fields.power_spectrum import draw_parameters, posterior_moments
from models.density_fields.sets import simulation_set
from models.density_fields.simulator import Settings

TINY = Settings(size=16, box=25.0, steps=4)
SMALL = replace(prior.ARCHITECTURE, channels=(8, 8, 8), blocks=(1, 1, 1), embedding=8)


def test_galaxies_have_their_number_and_the_masses_of_schechters_tail() -> None:
    rng = np.random.default_rng(0)
    numbers = np.full((40, 40, 40), 0.8)
    mass = stars.draw_stars(rng, numbers)
    # The sum of a Poisson number of unit exponentials: mean n, variance 2 n, empty with probability exp(-n).
    assert mass.mean() == pytest.approx(0.8, abs=4.0 * np.sqrt(1.6 / mass.size))
    assert mass.var() == pytest.approx(1.6, rel=0.05)
    assert np.mean(mass == 0) == pytest.approx(np.exp(-0.8), abs=0.01)


@pytest.mark.parametrize("recipe", stars.RECIPES)
def test_recipes_have_the_mean_of_their_winds_and_follow_the_density(recipe: str) -> None:
    rho = np.exp(np.random.default_rng(1).normal(0.0, 1.0, (16, 16, 16))).astype(np.float32)
    rho /= rho.mean()
    found = np.asarray(stars.intensity(recipe, jnp.asarray(rho), np.array([1.6, 1.0]), TINY))
    assert found.mean() == pytest.approx(stars.NUMBER_DENSITY / np.sqrt(1.6) * (25.0 / 16) ** 3, rel=1e-4)
    assert np.corrcoef(found.ravel(), rho.ravel())[0, 1] > 0.8
    quenched = np.asarray(stars.intensity(recipe, jnp.asarray(rho), np.array([1.6, 200.0]), TINY))
    dense = rho > np.quantile(rho, 0.99)
    assert quenched[dense].sum() < 0.9 * found[dense].sum()


def test_slabs_hold_all_stars_in_the_order_of_the_simulator() -> None:
    mesh = np.zeros((64, 64, 64), np.float32)
    mesh[0, 3, 60], mesh[12, 5, 6], mesh[13, 7, 8] = 1.0, 2.0, 4.0
    maps = stars.project_cells(mesh)
    assert maps.shape == (MAPS_PER_SIMULATION, 64, 64)
    assert maps.sum(axis=(1, 2)).reshape(3, 5).sum(axis=1) == pytest.approx([7.0] * 3)
    assert (maps[0, 3, 60], maps[0, 5, 6], maps[1, 7, 8]) == (1.0, 2.0, 4.0)  # 64 / 5 cells to a slab
    assert (maps[5, 0, 60], maps[14, 0, 3]) == (1.0, 1.0)  # rows and columns are the axes that are left


def test_density_mesh_has_all_mass_and_is_even_without_displacement() -> None:
    mesh = np.asarray(stars.density_mesh(jnp.zeros((8, 8, 8, 3))))
    np.testing.assert_allclose(mesh, 1.0, rtol=1e-5)
    moved = stars.density_mesh(jax.random.normal(jax.random.key(0), (8, 8, 8, 3)))
    assert float(moved.mean()) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.slow
def test_a_set_of_stars_continues_and_is_assembled(tmp_path: Path) -> None:
    chosen = simulation_set("LH", 3)
    said: list[str] = []
    sets.generate(chosen, tmp_path, processes=1, settings=TINY, say=said.append)
    kept = (tmp_path / "stars" / "LH_0001.npz").stat().st_mtime_ns
    (tmp_path / "stars" / "LH_0002.npz").unlink()
    before = {r: np.load(tmp_path / f"Maps_Mstar_JaxPM-{r}_LH_z=0.00.npy") for r in stars.RECIPES}
    sets.generate(chosen, tmp_path, processes=1, settings=TINY, say=said.append)
    assert (tmp_path / "stars" / "LH_0001.npz").stat().st_mtime_ns == kept
    for recipe, maps in before.items():
        assert maps.shape == (45, 16, 16)
        np.testing.assert_array_equal(np.load(tmp_path / f"Maps_Mstar_JaxPM-{recipe}_LH_z=0.00.npy"), maps)
    feedback = np.loadtxt(tmp_path / "feedback_LH_JaxPM.txt")
    assert feedback == pytest.approx(np.stack([stars.feedback_of(int(seed)) for seed in chosen.seeds]), abs=1e-7)
    with pytest.raises(ValueError, match="is another simulation"):
        sets.generate(chosen, tmp_path, processes=1, settings=replace(TINY, steps=5), say=said.append)


def write_pairs(folder: Path, num: int = 4, size: int = 64, factor: int = 1, seed: int = 0) -> None:
    """Log-normal densities with stars that follow them, in the layout of CAMELS."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size))
    white = np.fft.fft2(rng.normal(size=(15 * num, size, size)))
    x = np.fft.ifft2(white / np.sqrt(0.05 + (12.0 * frequency) ** 2)).real
    density = 1e11 * np.exp(1.5 * (x - x.mean()) / x.std())
    mass = rng.gamma(2.0, (density / 1e11) ** 1.2).astype(np.float32)
    np.save(folder / "Maps_Mcdm_Toy_LH_z=0.00.npy", density.astype(np.float32))
    np.save(folder / "Maps_Mstar_Toy_LH_z=0.00.npy", np.repeat(np.repeat(mass, factor, 1), factor, 2))
    np.savetxt(folder / "params_LH_Toy.txt", np.column_stack([np.linspace(0.2, 0.4, num), np.linspace(0.7, 0.9, num)]))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    folder = tmp_path_factory.mktemp("pairs")
    write_pairs(folder)
    return load_pairs(folder, "Toy")


def test_pairs_are_split_by_simulation(pairs: Pairs) -> None:
    training, held_out = pairs.split(1)
    assert (len(training.stars), len(held_out.stars)) == (45, 15)
    density, mass, parameters = held_out.first_of_each(3)
    np.testing.assert_array_equal(mass, pairs.stars[[45, 50, 55]])
    np.testing.assert_array_equal(density, pairs.density.surface_density[[45, 50, 55]])
    assert parameters == pytest.approx(np.tile([[0.4, 0.9]], (3, 1)))


def test_finer_stars_are_averaged_as_their_dark_matter_is(pairs: Pairs, tmp_path: Path) -> None:
    write_pairs(tmp_path, factor=2)
    np.testing.assert_allclose(load_pairs(tmp_path, "Toy").stars, pairs.stars, rtol=1e-5)


def test_stars_are_shown_standardised(pairs: Pairs) -> None:
    maps = StellarScale.of(pairs.stars).maps(pairs.stars)
    assert maps.shape == (60, 2, 64, 64)
    assert maps.mean(axis=(0, 2, 3)) == pytest.approx([0.0, 0.0], abs=1e-3)
    assert maps.std(axis=(0, 2, 3)) == pytest.approx([1.0, 1.0], abs=1e-3)
    empty = StellarScale.of(pairs.stars).maps(np.zeros((64, 64)))
    assert np.ptp(empty, axis=(1, 2)) == pytest.approx([0.0, 0.0], abs=1e-5)
    assert empty[0, 0, 0] < maps[:, 0].min() + 1e-6


def test_what_is_no_map_of_stars_is_refused(pairs: Pairs, tmp_path: Path) -> None:
    scale = StellarScale.of(pairs.stars)
    with pytest.raises(ValueError, match="training maps must have stars, got a mean stellar mass of 0"):
        StellarScale.of(np.zeros((3, 64, 64)))
    bad = pairs.stars[0].copy()
    bad[3, 4] = -1.0
    with pytest.raises(ValueError, match=r"finite and not negative, got 1 that are not, the first at \(3, 4\)"):
        scale.maps(bad)
    with pytest.raises(ValueError, match=r"must have 64 x 64 pixels as its dark matter, got \(32, 32\)"):
        check_stars(np.zeros((32, 32)), 64)
    write_pairs(tmp_path)
    mass = np.load(tmp_path / "Maps_Mstar_Toy_LH_z=0.00.npy")
    np.save(tmp_path / "Maps_Mstar_Toy_LH_z=0.00.npy", mass[:-1])
    with pytest.raises(ValueError, match="a map of stars for every map of dark matter, got 59 for 60"):
        load_pairs(tmp_path, "Toy")
    np.save(tmp_path / "Maps_Mstar_Toy_LH_z=0.00.npy", mass[:, :48, :48])
    with pytest.raises(ValueError, match="of 48 pixels cannot be averaged to 64"):
        load_pairs(tmp_path, "Toy")
    with pytest.raises(FileNotFoundError, match="Maps_Mcdm_Other_LH"):
        load_pairs(tmp_path, "Other")


def test_dark_matter_and_stars_are_of_one_suite(pairs: Pairs, tmp_path: Path) -> None:
    """Two suites in one folder, one of them of several recipes for its stars."""
    write_pairs(tmp_path)
    for file in ("Maps_Mcdm_{}_LH_z=0.00.npy", "params_LH_{}.txt"):
        (tmp_path / file.format("Else")).write_bytes((tmp_path / file.format("Toy")).read_bytes())
    np.save(tmp_path / "Maps_Mcdm_Else_LH_z=0.00.npy", 2.0 * np.load(tmp_path / "Maps_Mcdm_Toy_LH_z=0.00.npy"))
    (tmp_path / "Maps_Mstar_Toy_LH_z=0.00.npy").rename(tmp_path / "Maps_Mstar_Toy-power_LH_z=0.00.npy")
    found = load_pairs(tmp_path, "Toy-power")
    np.testing.assert_array_equal(found.density.surface_density, pairs.density.surface_density)
    with pytest.raises(FileNotFoundError, match="Maps_Mstar_Else_LH"):
        load_pairs(tmp_path, "Else")


def test_recipes_put_stars_in_other_places() -> None:
    rho = np.exp(np.random.default_rng(1).normal(0.0, 1.0, (16, 16, 16))).astype(np.float32)
    found = [np.asarray(stars.intensity(r, jnp.asarray(rho / rho.mean()), np.ones(2), TINY)) for r in stars.RECIPES]
    for one, other in itertools.combinations(found, 2):
        # The mean is that of the winds; where the stars are differs by a good part of it.
        assert np.abs(one - other).mean() > 0.1 * one.mean()


def test_a_file_of_stars_must_be_like_those_of_the_training(pairs: Pairs, tmp_path: Path) -> None:
    scale, path = StellarScale.of(pairs.stars), tmp_path / "stars.npy"
    np.save(path, pairs.stars[0])
    np.testing.assert_array_equal(read_stars(path, scale).stars, pairs.stars[0])
    np.save(path, 1e10 * pairs.stars[0])
    with pytest.raises(ValueError, match="must be in the unit and on the pixels of the maps that the reconstruction"):
        read_stars(path, scale)
    # Pixels of a quarter of the side, of which each has a sixteenth of the stars.
    np.save(path, np.repeat(np.repeat(pairs.stars[0] / 16, 4, 0), 4, 1))
    with pytest.raises(ValueError, match="to a factor of 8"):
        read_stars(path, scale)


def test_without_a_single_star_there_is_little_mass(pairs: Pairs, tmp_path: Path) -> None:
    training, held_out = pairs.split(1)
    scales = Scales.of(training)
    paired = scales.paired(training)
    linear = fit_linear_reconstruction(np.asarray(paired.fields), np.asarray(paired.maps))
    model, path = prior.make_prior(linear, scales), tmp_path / "stars.npy"
    np.save(path, np.zeros((64, 64)))
    observed = read_stars(path, scales.stars)
    assert "not a single star" in observed.description
    empty, full = (draw(jax.random.key(0), model, x, 4, 12) for x in (observed.stars, held_out.stars[0]))
    assert np.isfinite(empty).all()
    assert empty.mean() < full.mean() - 0.5
    assert empty.mean(axis=0).std() < full.mean(axis=0).std()


def test_the_dark_matter_behind_stars_and_other_data_has_its_exact_posterior(pairs: Pairs) -> None:
    """Gibbs on a prior that stars are given to; the posterior of the linear reconstruction is a Wiener filter's."""
    training, held_out = pairs.split(1)
    scales = Scales.of(training)
    paired = scales.paired(training)
    linear = fit_linear_reconstruction(np.asarray(paired.fields), np.asarray(paired.maps))
    given = prior.make_prior(linear, scales).given(scales.stars.maps(held_out.stars[0][:32, :32]))
    level = 0.3

    def observed(y=None):
        x = numpyro.sample("x", bd.DiffusionPrior(given))
        numpyro.sample("y", dist.Normal(x, level).to_event(3), obs=y)

    truth = bd.DiffusionPrior(given).sample(jax.random.key(0))
    y = truth + level * jax.random.normal(jax.random.key(1), truth.shape)
    algorithm = bd.GibbsDiffusion(num_warmup=8, num_diffusion_steps=12, num_field_steps=2)
    settings = {"num_chains": 2, "num_samples": 80, "progress": False}
    data = bd.sample(jax.random.key(2), observed, y, algorithm=algorithm, **settings)
    x = np.asarray(data["posterior"]["x"]).reshape(-1, *truth.shape)
    context = given.context_array(None)
    exact = given.denoiser(y, jnp.asarray(level), given.noise_power(context), context)
    error = x.std(axis=0) / np.sqrt(len(x))
    assert np.sqrt(np.mean(((x.mean(axis=0) - exact) / error) ** 2)) < 1.5


@pytest.mark.slow
def test_dark_matter_behind_stars_that_are_data_is_calibrated_on_its_own_draws(pairs: Pairs) -> None:
    training, held_out = pairs.split(1)
    scales = Scales.of(training)
    paired = scales.paired(training)
    linear = prior.make_prior(fit_linear_reconstruction(np.asarray(paired.fields), np.asarray(paired.maps)), scales)
    truths = HeldOut.of(linear, held_out, num=5)
    drawn = truths.draw(jax.random.key(1))
    np.testing.assert_allclose(scales.density.surface_density(drawn["x"]), drawn["surface_density"], rtol=1e-4)
    number = int(np.flatnonzero([np.array_equal(x, drawn["x"]) for x in truths.fields])[0])
    np.testing.assert_array_equal(truths.maps[number], drawn["stars"])
    model = make_model_of_stars(linear, truths.maps, num_steps=4)

    def mass(draw: dict[str, jax.Array], _: object) -> jax.Array:
        return jnp.mean(draw["surface_density"][..., :32, :32])

    settings: dict[str, Any] = {
        "num_chains": 2,
        "num_samples": 100,
        "num_draws": 19,
        "max_rhat": 1.2,
        "progress": False,
    }
    nuts = bd.NUTS(num_warmup=40, dense_mass=False)
    study = bd.calibration.sbc(
        jax.random.key(3),
        model,
        algorithm=nuts,
        num_simulations=30,
        parameters=(),
        quantities={"mass": mass},
        **settings,
    )
    assert study.passes(), study.verdict()
    assert float(study.table()["contraction"]["mass"]) > 0.3


def test_mass_in_regions() -> None:
    whole = disc((64, 64), (0.0, 63.0), 12.5)
    assert whole.sum() * PIXEL**2 == pytest.approx(np.pi * 12.5**2, rel=0.01)
    np.testing.assert_array_equal(
        np.roll(disc((64, 64), (10.0, 20.0), 3.0), (54, 44), (0, 1)), disc((64, 64), (0.0, 0.0), 3.0)
    )
    density = np.full((2, 64, 64), 5.0)
    assert mass_in(density, whole) == pytest.approx([5.0 * whole.sum() * PIXEL**2] * 2)
    with pytest.raises(ValueError, match="at most half of the map, 12.5"):
        disc((64, 64), (0.0, 0.0), 13.0)
    with pytest.raises(ValueError, match="holds no pixel"):
        disc((64, 64), (0.5, 0.5), 0.1)
    with pytest.raises(ValueError, match=r"must have the pixels of its map, \(64, 64\), got \(32, 32\)"):
        mass_in(density, np.ones((32, 32), bool))


@pytest.mark.slow
def test_the_recipe_ends_in_a_model_that_reconstructs(
    pairs: Pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prior, "ARCHITECTURE", SMALL)
    monkeypatch.setattr(prior, "load_pairs", lambda folder, suite: HeldOutOne(pairs))
    settings = replace(prior.SETTINGS, steps=2, batch_size=2)
    trained = prior.train_denoiser(settings, tmp_path / "checkpoints")
    model = prior.publish(trained, settings, tmp_path / "model")
    assert model.card.entries["quality"]["error_over_linear"] == pytest.approx([1.0] * 5, abs=0.15)
    ends = (model.schedule.gamma_min, model.schedule.gamma_max)
    assert ends == pytest.approx((-13.3, 13.3), abs=0.1)
    assert ends != (-13.3, 13.3)
    again = prior.measure(tmp_path / "model").schedule
    assert (again.gamma_min, again.gamma_max) == pytest.approx(ends)

    training, held_out = pairs.split(1)
    assert prior.scales_of(model) == Scales.of(training)
    ours = draw(jax.random.key(0), model, held_out.stars[0], 6, num_evaluations=12)
    truth = prior.scales_of(model).density.field(held_out.density.surface_density[0])
    assert ours.shape == (6, 1, 64, 64)
    assert np.corrcoef(ours.mean(axis=0).ravel(), truth.ravel())[0, 1] > 0.7


@pytest.mark.slow
def test_ends_of_the_schedule_are_learned_from_where_they_start(pairs: Pairs) -> None:
    scales = Scales.of(pairs)
    paired = scales.paired(pairs)
    network = initialise(0, fit_linear_reconstruction(np.asarray(paired.fields), np.asarray(paired.maps)), SMALL)
    narrow, wide = (prior.LearnedLinear(*ends) for ends in ((-4.0, 2.0), (-60.0, 40.0)))
    learned = prior.learn_ends(network, paired, narrow, steps=3)
    assert learned.gamma_min < -4.1
    assert learned.gamma_max > 2.01
    assert prior.learn_ends(network, paired, wide, steps=3) == wide  # there is nothing left to gain


def test_a_reconstruction_is_measured_on_its_own_maps(
    tmp_path: Path, pairs: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pairs(tmp_path, seed=5)
    monkeypatch.setattr(prior, "load_pairs", lambda folder, suite: HeldOutOne(load_pairs(folder, suite)))
    paired = (scales := Scales.of(pairs)).paired(pairs)
    twin = fit_linear_reconstruction(np.asarray(paired.fields), np.asarray(paired.maps))
    prior.make_prior(twin, scales).save(tmp_path / "model")
    with pytest.raises(ValueError, match="measure it on its own training maps"):
        prior.measure(tmp_path / "model", tmp_path, "Toy")
    result = CliRunner().invoke(app, ["measure", str(tmp_path / "model"), "--maps", str(tmp_path), "--suite", "Toy"])
    assert result.exit_code == 2
    assert "measure it on its own training maps" in " ".join(result.output.split())
    shipped = str(Path(bd.__file__).parent / "pretrained" / "kappa-64")
    result = CliRunner().invoke(app, ["measure", shipped, "--suite", "Toy"])
    assert result.exit_code == 2
    assert "--suite is for a model of dark_matter" in " ".join(result.output.split())


def test_training_maps_of_another_suite_go_to_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict] = []
    monkeypatch.setattr(prior, "train_denoiser", lambda settings, checkpoints, **of_maps: asked.append(of_maps))
    monkeypatch.setattr(prior, "publish", lambda denoiser, settings, path, **of_maps: asked.append(of_maps))
    command = ["train", "dark_matter", "--maps", str(tmp_path), "--suite", "SIMBA", "--output", str(tmp_path / "model")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert asked == [{"folder": tmp_path, "suite": "SIMBA"}] * 2
    result = CliRunner().invoke(app, ["train", "matter", "--suite", "SIMBA"])
    assert result.exit_code == 2
    assert "--suite is for dark_matter, got matter" in result.output


def test_a_reconstruction_is_a_site_of_a_model_and_has_pictures(pairs: Pairs, tmp_path: Path) -> None:
    training, held_out = pairs.split(1)
    scales = Scales.of(training)
    paired = scales.paired(training)
    linear = fit_linear_reconstruction(np.asarray(paired.fields), np.asarray(paired.maps))
    model, mass = prior.make_prior(linear, scales), held_out.stars[0]
    truth = scales.density.field(held_out.density.surface_density[0])
    ours = draw(jax.random.key(0), model, mass, 6, num_evaluations=12)
    assert ours.shape == (6, 1, 64, 64)
    assert np.corrcoef(ours.mean(axis=0).ravel(), truth.ravel())[0, 1] > 0.7

    predicted = Predictive(make_model(model, mass), num_samples=1)(jax.random.key(1))
    density = scales.density.surface_density(predicted["x"])
    assert predicted["surface_density"] == pytest.approx(np.asarray(density), rel=1e-5)

    row = Reconstruction(held_out.stars[0], ours[:, 0], truth, "toy")
    unknown = Reconstruction(held_out.stars[0], ours[:1, 0])
    region = disc((64, 64), (20.0, 30.0), 3.0)
    for figure in (
        maps_figure([row, unknown], [region]),
        spectra_figure(row),
        spectra_figure(row._replace(truth=None)),
    ):
        figure.savefig(tmp_path / "figure.png")
        assert (tmp_path / "figure.png").stat().st_size > 10_000


class HeldOutOne(Pairs):
    """Pairs that hold out one simulation of few."""

    def __new__(cls, pairs: Pairs):
        return super().__new__(cls, *pairs)

    def split(self, num_held_out: int = 1) -> tuple[Pairs, Pairs]:
        return Pairs(*self).split(1)


def test_a_model_of_another_kind_is_refused() -> None:
    other = bd.DiffusionModel(
        bd.GaussianDenoiser(jnp.ones((64, 64))), bd.schedules.Cosine(), bd.WhiteNoise(), (1, 64, 64)
    )
    with pytest.raises(ValueError, match="must be a reconstruction of dark matter"):
        prior.scales_of(other)


def test_errors_of_the_twin_are_its_own(pairs: Pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    training = pairs.split(1)[0]
    scales = Scales.of(training)
    paired = scales.paired(training)
    monkeypatch.setattr(prior, "ARCHITECTURE", replace(prior.ARCHITECTURE, channels=(8, 8), blocks=(1, 1), embedding=8))
    model = prior.make_prior(prior.untrained_denoiser(paired), scales)
    found = reconstruction_errors(model, paired.fields[:8], paired.maps[:8])
    assert found["error_over_linear"] == pytest.approx([1.0] * 5, abs=1e-4)
    assert found["linear"][0] < 0.1**2 < found["linear"][-1] < 1.0


def test_field_and_cosmology_together_are_the_reconstruction_and_the_spectrum(pairs: Pairs) -> None:
    training = pairs.split(1)[0]
    scales = Scales.of(training)
    paired = scales.paired(training)
    linear = fit_linear_reconstruction(np.asarray(paired.fields), np.asarray(paired.maps))
    model = prior.make_prior(linear, scales)
    spectrum = load_baselines().power_spectrum
    x, mass = jnp.asarray(paired.fields[3]), pairs.stars[3]
    joint = make_joint_model(model, spectrum, mass)

    def density(theta) -> float:
        values = {"x": x, "Omega_m": theta[0], "sigma_8": theta[1]}
        return float(log_density(joint, (), {}, values)[0])

    given = float(bd.DiffusionPrior(model.given(scales.stars.maps(mass))).log_prob(x))
    middle = (np.arange(40) + 0.5) / 40
    grid = [(0.1 + 0.4 * a, 0.6 + 0.4 * b) for a in middle for b in middle]
    every = np.array([density(theta) for theta in grid[::100]])
    of_theta = np.array([float(spectrum.at(jnp.array(t)).log_prob(spectrum.summary(x))) for t in grid[::100]])
    # At every cosmology the joint density is the field's plus that of its spectrum, up to the evidence.
    assert every - of_theta == pytest.approx(np.full(16, (every - of_theta)[0]), abs=0.05)
    whole = np.asarray(jax.vmap(lambda t: spectrum.at(t).log_prob(spectrum.summary(x)))(jnp.array(grid)))
    evidence = np.logaddexp.reduce(whole) - np.log(len(grid))
    uniform = -np.log(0.4 * 0.4)
    assert (every - of_theta)[0] == pytest.approx(given + uniform - evidence, abs=0.1)


def test_drawn_cosmologies_have_the_moments_of_their_posterior() -> None:
    spectrum = load_baselines().power_spectrum
    twin = bd.load_pretrained("density-fields-64").twin_at(jnp.array([0.3, 0.8]))
    assert twin is not None
    field = twin.mean + filter_field(jax.random.normal(jax.random.key(0), (1, 64, 64)), jnp.sqrt(twin.power))
    fields = np.repeat(np.asarray(field)[None], 4000, axis=0)
    draws = draw_parameters(np.random.default_rng(0), spectrum, fields)
    moments = posterior_moments(spectrum, fields[:1])
    assert np.abs(draws.mean(axis=0) - moments.mean[0]).max() < 4.0 * moments.sd[0].max() / np.sqrt(4000)
    assert draws.std(axis=0) == pytest.approx(moments.sd[0], rel=0.06)
