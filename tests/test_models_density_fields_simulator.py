"""N-body simulations: units and growth against linear theory, forces against JaxPM, mass, and sets that continue."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from typer.testing import CliRunner

pytest.importorskip("jaxpm", reason="needs JaxPM: pip install -e '.[simulations]'")

from models.__main__ import app
from models.density_fields import sets, simulator
from models.density_fields.data import load_maps
from models.density_fields.simulator import Settings, simulate

TINY = Settings(size=16, box=25.0, steps=4)
OMEGA_M, SIGMA_8 = 0.3, 0.8


@pytest.fixture(scope="module")
def tiny() -> simulator.Simulation:
    return simulate(1, OMEGA_M, SIGMA_8, TINY)


def test_the_linear_spectrum_has_its_sigma_8() -> None:
    k = np.geomspace(1e-3, 50.0, 4000)
    window = 3.0 * (np.sin(8 * k) - 8 * k * np.cos(8 * k)) / (8 * k) ** 3
    for omega_m in (0.1, 0.5):
        power = np.asarray(simulator.linear_power(omega_m, SIGMA_8, k))
        variance = np.trapezoid(power * window**2 * k**3 / (2 * np.pi**2), np.log(k))
        np.testing.assert_allclose(np.sqrt(variance), SIGMA_8, rtol=5e-3)


def test_initial_fields_have_the_linear_spectrum() -> None:
    settings = Settings(size=32, box=200.0)
    k, modes = simulator.wavenumbers(settings)
    spectra = [
        simulator.power_spectrum(simulator.initial_field(seed, OMEGA_M, SIGMA_8, settings), settings)
        for seed in range(4)
    ]
    ratio = np.mean(spectra, axis=0) / np.asarray(simulator.linear_power(OMEGA_M, SIGMA_8, k))
    deviations = (ratio - 1.0) / np.sqrt(2.0 / (modes * 4))
    assert np.abs(deviations[k < 0.4]).max() < 4.0
    assert np.std(deviations) < 1.6


def test_growth_is_that_of_the_quadrature() -> None:
    a = np.array([0.05, 0.3, 0.7, 1.0])
    growth = [np.sqrt(0.2 / x**3 + 0.8) * quad(lambda y: (0.2 / y + 0.8 * y**2) ** -1.5, 0, x)[0] for x in a]  # Heath
    found, _ = simulator.growth_and_momentum(simulator.cosmology(0.2, SIGMA_8), jnp.asarray(a))
    np.testing.assert_allclose(found, np.array(growth) / growth[-1], rtol=1e-3)


def test_a_field_of_small_amplitude_grows_as_linear_theory_says() -> None:
    settings = replace(TINY, size=32, box=100.0, force_mesh=2)
    amplitude = 0.02
    field = simulator.initial_field(5, OMEGA_M, amplitude, settings)
    final = simulate(5, OMEGA_M, amplitude, settings).power
    ratio = np.asarray(final / simulator.power_spectrum(field, settings))
    assert ratio[0] == pytest.approx(1.0, abs=0.02)


def test_forces_are_those_of_jaxpm() -> None:
    from jaxpm.pm import pm_forces

    displacement = 2.0 * jax.random.normal(jax.random.key(0), (16, 16, 16, 3))
    expected = pm_forces(displacement, mesh_shape=(16, 16, 16), paint_absolute_pos=False)
    np.testing.assert_allclose(simulator.forces(displacement, 1), expected, atol=2e-6)


@pytest.mark.parametrize("factor", [1, 2])
def test_forces_of_a_long_wave_are_its_displacement(factor: int) -> None:
    size, amplitude = 16, 0.01
    wave = amplitude * jnp.sin(2.0 * np.pi * jnp.arange(size) / size)
    displacement = jnp.zeros((size, size, size, 3)).at[..., 1].set(wave[None, :, None])
    found = simulator.forces(displacement, factor)
    ratio = float(jnp.sum(found * displacement) / jnp.sum(displacement**2))
    assert ratio == pytest.approx(1.0, abs=0.03)
    np.testing.assert_allclose(found[..., 0], 0.0, atol=1e-6)


def test_first_order_displacements_have_exact_derivatives() -> None:
    """Divergence of the displacement is minus the growth times the field, at every wavenumber below Nyquist's."""
    settings = replace(TINY, start=0.001)
    field = simulator.initial_field(2, OMEGA_M, SIGMA_8, settings)
    universe = simulator.cosmology(OMEGA_M, SIGMA_8)
    displacement, _, _ = simulator.lpt(universe, field, a=settings.start, order=2)
    displacement = simulator._undo_differences(displacement)
    waves = 2.0 * np.pi * np.fft.fftfreq(16)
    divergence = sum(
        1j * np.expand_dims(waves, [j for j in range(3) if j != i]) * np.fft.fftn(displacement[..., i])
        for i in range(3)
    )
    growth = float(simulator.growth_and_momentum(universe, jnp.array([settings.start]))[0][0])
    inner = (slice(1, 8),) * 3
    expected = -growth * np.fft.fftn(field)[inner]
    assert np.abs(divergence[inner] - expected).max() < 0.02 * np.abs(expected).max()


def test_maps_hold_all_the_mass_and_no_empty_pixel(tiny: simulator.Simulation) -> None:
    maps = np.asarray(tiny.maps)
    assert maps.shape == (15, 16, 16)
    assert maps.min() > 0
    # Through each of the three axes one sees the whole box: rho_mean times its side.
    columns = maps.reshape(3, 5, 16, 16).sum(axis=1).mean(axis=(1, 2))
    np.testing.assert_allclose(columns, 2.775e11 * OMEGA_M * 25.0, rtol=1e-4)


def test_slabs_and_axes_are_where_the_particles_are() -> None:
    """Particles at rest but for those of one mesh point, which all move to the pixel (3, 9) of the slab of x = 5."""
    settings = replace(TINY, sheet=1)
    still = jnp.zeros((16, 16, 16, 3))
    moved = still.at[0, 0, 0].set(jnp.array([5.0, 3.0, 9.0]))
    change = np.asarray(simulator.project(moved, OMEGA_M, settings) - simulator.project(still, OMEGA_M, settings))
    unit = 2.775e11 * OMEGA_M * 5.0 / (16 / 5)
    gains = {tuple(place): change[tuple(place)] / unit for place in np.argwhere(change > 0.5 * unit).tolist()}
    # 5, 3 and 9 cells lie in the slabs 1, 0 and 2 of 3.2 cells each.
    assert gains == {place: pytest.approx(1.0, abs=1e-3) for place in [(1, 3, 9), (5, 5, 9), (12, 5, 3)]}


def test_the_same_seed_has_the_same_phases_in_every_cosmology() -> None:
    fields = [simulator.initial_field(7, OMEGA_M, sigma_8, TINY) for sigma_8 in (0.6, 0.9)]
    np.testing.assert_allclose(fields[1], 1.5 * fields[0], rtol=2e-3, atol=1e-3)
    assert np.abs(np.corrcoef(fields[0].ravel(), simulator.initial_field(8, OMEGA_M, 0.6, TINY).ravel())[0, 1]) < 0.1


def test_a_new_cosmology_does_not_compile_again(tiny: simulator.Simulation) -> None:
    before = simulate._cache_size()
    other = simulate(2, 0.4, 0.9, TINY)
    assert simulate._cache_size() == before
    assert not np.allclose(other.maps, tiny.maps)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Simulations computed here rather than in spawned processes; the list has the names of their files."""
    computed: list[str] = []

    def imap_unordered(function, jobs):
        for job in jobs:
            computed.append(job[0].stem)
            yield function(job)

    pool = SimpleNamespace(imap_unordered=imap_unordered)
    context = SimpleNamespace(Pool=lambda processes: nullcontext(pool))
    monkeypatch.setattr(sets, "get_context", lambda method: context)
    return computed


def test_a_set_continues_and_is_read_back(tmp_path: Path, in_process: list[str]) -> None:
    chosen, lines = sets.simulation_set("LH", 3), []
    sets.generate(chosen, tmp_path, settings=TINY, say=lines.append)
    assert in_process == ["LH_0000", "LH_0001", "LH_0002"]
    assert any("3 of 3 simulations" in line and "min left" in line for line in lines)
    first = load_maps(tmp_path, size=16)
    maps = np.array(first.surface_density)
    np.testing.assert_allclose(first.parameters, chosen.parameters, atol=1e-8)
    np.testing.assert_allclose(maps[15:30], simulate(1, *chosen.parameters[1], TINY).maps, rtol=1e-5)

    (tmp_path / "simulations" / "LH_0001.npz").unlink()
    (tmp_path / "simulations" / ".LH_0001.1.partial").write_bytes(b"half of one")
    in_process.clear()
    sets.generate(chosen, tmp_path, settings=TINY, say=lines.append)
    assert in_process == ["LH_0001"]
    np.testing.assert_array_equal(load_maps(tmp_path, size=16).surface_density, maps)
    with np.load(tmp_path / "spectra_LH_JaxPM.npz") as file:
        assert file["power"].shape == (3, len(file["k"]))
    with pytest.raises(ValueError, match="LH_0000.npz is another simulation: expected .*'steps': 5.*use another"):
        sets.generate(chosen, tmp_path, settings=replace(TINY, steps=5))


def test_the_number_needs_one_set() -> None:
    result = CliRunner().invoke(app, ["simulate", "--num", "3"])
    assert result.exit_code == 2
    assert "--num needs one --set" in result.output


@pytest.mark.slow
def test_spawned_processes_share_a_set(tmp_path: Path) -> None:
    chosen = sets.simulation_set("CV", 3)
    sets.generate(chosen, tmp_path, processes=2, settings=TINY)
    maps = load_maps(tmp_path, "CV", size=16).surface_density
    np.testing.assert_allclose(maps[30:], simulate(int(chosen.seeds[2]), OMEGA_M, SIGMA_8, TINY).maps, rtol=1e-4)
