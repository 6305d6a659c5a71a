"""Models of the calibration command: every one is there, with another prior as well, and says what does not fit."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from typer.testing import CliRunner

import bayesdiff as bd
from bayesdiff.calibration import simulations
from inference import exits
from models.dark_matter.held_out import HeldOut
from validation import problems
from validation.__main__ import app
from validation.problems import Asked, Name, Problem, make_problem

TWIN = Asked("twin")
KEY = jax.random.key(0)


@pytest.fixture
def stars(monkeypatch: pytest.MonkeyPatch) -> HeldOut:
    """Two slabs in the place of the held-out simulations."""
    rng = np.random.default_rng(0)
    field, density = rng.normal(size=(2, 1, 64, 64)), rng.lognormal(size=(2, 1, 64, 64))
    truths = HeldOut(jnp.asarray(field), jnp.asarray(rng.normal(size=(2, 2, 64, 64))), jnp.asarray(density))
    monkeypatch.setattr("models.dark_matter.data.load_pairs", lambda *_: _Split())
    monkeypatch.setattr(HeldOut, "of", lambda *_: truths)
    return truths


class _Split:
    def split(self) -> tuple[None, None]:
        """No maps: they are not looked at."""
        return None, None


def measured(problem: Problem) -> dict[str, jax.Array]:
    """Quantities of the truth of one simulation, where all that is ranked is finite."""
    sites, observation = simulations(KEY, problem.model, [0], simulator=problem.simulator)
    assert observation
    draw = {name: jnp.asarray(x[0]) for name, x in sites.items()}
    for name in problem.ranked or ():
        assert np.isfinite(draw[name])
    found = {name: of(draw, {}) for name, of in problem.quantities.items()}
    assert all(np.isfinite(x) and jnp.shape(x) == () for x in found.values())
    return draw | found


def test_fields_are_ranked_in_a_functional(stars: HeldOut) -> None:
    found = measured(make_problem(Name.dark_matter, TWIN))
    assert any(
        float(found["mass of a quarter"]) == pytest.approx(float(x[..., :32, :32].mean())) for x in stars.density
    )
    assert float(found["highest density"]) == pytest.approx(float(found["x"].max()))


@pytest.mark.slow
def test_sky_under_a_mask_and_foregrounds_have_their_parameters(data_dir: object) -> None:
    del data_dir
    found = measured(make_problem(Name.cib_tsz, TWIN))
    assert float(found["deepest tSZ"]) == pytest.approx(float(found["tsz"].min()))
    found = measured(make_problem(Name.mass_mapping, TWIN))
    assert float(found["highest peak"]) == pytest.approx(float(found["kappa"].max()))
    assert make_problem(Name.mass_mapping, TWIN).ranked == ("level",)
    masked = make_problem(Name.masked_map, TWIN)
    assert masked.ranked == ("level", "calibration", "amplitude", "offset")
    assert "mean of hidden pixels" in measured(masked)


def test_gibbs_takes_the_field_as_it_is_and_no_calibration_of_a_prior_of_whole_windows() -> None:
    assert "shape_base" in _sites(make_problem(Name.masked_map, TWIN))
    assert "shape" in _sites(make_problem(Name.masked_map, Asked("twin", gibbs=True)))
    assert make_problem(Name.masked_map, Asked("dust-64", gibbs=True)).ranked == ("level",)
    assert make_problem(Name.masked_map, Asked("dust-64")).ranked == ("level", "calibration")


@pytest.mark.parametrize("name", [Name.mass_mapping, Name.cib_tsz])
def test_gibbs_takes_whole_fields_as_they_are(name: Name, data_dir: object) -> None:
    del data_dir
    assert "x_base" in _sites(make_problem(name, TWIN), 2)
    assert "x" in _sites(make_problem(name, Asked("twin", gibbs=True)), 2)


def _sites(problem: Problem, num_channels: int = 1) -> tuple[str, ...]:
    return bd.sampling.target.build_target(KEY, problem.model, (np.zeros((num_channels, 64, 64), np.float32),)).latent


def test_a_learned_prior_has_its_bound_and_a_twin_its_closed_form(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr("models.denoising.model.make_model", lambda prior, bound: seen.append(bound))
    make_problem(Name.denoising, Asked())
    make_problem(Name.denoising, TWIN)
    assert isinstance(seen[0], bd.Elbo)
    assert seen[1] is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["denoising", "--prior", "nowhere"], "or the folder of a saved model, got 'nowhere'"),
        (["dust_cmb", "--prior", "dust-64"], "must have the channels and the context of dust-cmb-64"),
        (["linear_gaussian", "--prior", "dust-64"], "takes no other prior"),
        (["masked_map", "--prior", "twin", "--engine", "grid"], "Grid takes scalar sites"),
        (["denoising", "--prior", "twin", "--engine", "microcanonical"], "use NUTS"),
    ],
)
def test_what_does_not_fit_is_refused(options: list[str], words: str, tmp_path: object) -> None:
    result = CliRunner().invoke(app, ["sbc", *options, "--num", "2", "--output", str(tmp_path), "--quiet"])
    assert result.exit_code == exits.BAD_INPUT
    assert words in " ".join(result.output.split())


def test_every_model_can_be_asked_for() -> None:
    assert set(problems._MAKERS) == set(Name)
