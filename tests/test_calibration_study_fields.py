"""Fields behind the data sets of a study: their exact posterior, a store that continues, and what is refused."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import bayesdiff as bd
from bayesdiff.calibration import Sbc, check_fields, sbc, study_fields
from models.linear_gaussian import power_law

SIZE = 16
PRIOR = bd.DiffusionModel(
    bd.GaussianDenoiser(jnp.asarray(power_law(SIZE, -2.0), jnp.float32)),
    bd.schedules.Cosine(log_snr_max=10.0),
    bd.WhiteNoise(),
    (1, SIZE, SIZE),
    name="dust",
)
KEY = jax.random.key(0)


def model(y=None):
    level = numpyro.sample("level", dist.LogUniform(0.1, 1.0))
    numpyro.sample("y", bd.NoisyDiffusion(PRIOR, level), obs=y)


def simulator(key: jax.Array) -> dict[str, jax.Array]:
    key_level, key_field, key_noise = jax.random.split(key, 3)
    level = dist.LogUniform(0.1, 1.0).sample(key_level)
    x = bd.DiffusionPrior(PRIOR).sample(key_field)
    noise = level * jax.random.normal(key_noise, x.shape)
    return {"level": level, "x": x, "n": noise, "y": x + noise}


@pytest.fixture(scope="module")
def study() -> Sbc:
    algorithm = bd.Grid({"level": 128}, max_error=0.03)
    return sbc(KEY, model, algorithm=algorithm, num_simulations=30, simulator=simulator, progress=False)


draw = partial(study_fields, KEY, model, simulator=simulator, truth="x", num_draws=20, progress=False)


def test_fields_of_an_exact_prior_pass(study: Sbc) -> None:
    truth, draws = draw(study, num_fields=30)
    assert truth.shape == (30, 1, SIZE, SIZE)
    assert draws.shape == (30, 20, 1, SIZE, SIZE)
    assert check_fields(truth, draws, edges=(0.5, 2.5, 5.5, 12.0)).passes()
    # The error of the mean is that of the Wiener filter at the true level, mode by mode, and of there being 20 draws.
    power, noise = np.asarray(PRIOR.denoiser.power), study.truth[:, 0, None, None] ** 2
    error = np.abs(np.fft.fft2((draws.mean(axis=1) - truth)[:, 0], norm="ortho")) ** 2
    ratio = error / (power * noise / (power + noise))
    assert ratio.mean() == pytest.approx(1.0 + 1.0 / 20, abs=4 * np.sqrt(2.0 / ratio.size))


def test_a_store_of_fields_continues_and_is_of_one_study(study: Sbc, tmp_path: Path) -> None:
    few = draw(study, num_fields=2, store=tmp_path / "fields")[1]
    kept = (tmp_path / "fields" / "00001.npy").stat().st_mtime_ns
    more = draw(study, num_fields=3, store=tmp_path / "fields")[1]
    np.testing.assert_array_equal(more[:2], few)
    assert (tmp_path / "fields" / "00001.npy").stat().st_mtime_ns == kept
    np.testing.assert_array_equal(draw(study, num_fields=3)[1], more)
    with pytest.raises(FileExistsError, match="holds fields of another study, or other draws"):
        draw(study, num_fields=2, num_draws=10, store=tmp_path / "fields")


def test_several_fields_are_joined_along_the_channels_and_continue(study: Sbc, tmp_path: Path) -> None:
    both = {"truth": ("x", "n"), "field": ("dust", "noise"), "num_fields": 2, "store": tmp_path / "fields"}
    truth, draws = draw(study, **both)
    assert truth.shape == (2, 2, SIZE, SIZE)
    np.testing.assert_array_equal(truth[:, :1], draw(study, num_fields=2)[0])
    np.testing.assert_array_equal(draws[:, :, :1], draw(study, num_fields=2)[1])
    mixture = np.broadcast_to(truth.sum(axis=1)[:, None], draws[:, :, 0].shape)
    np.testing.assert_allclose(draws.sum(axis=2), mixture, atol=1e-5)
    np.testing.assert_array_equal(draw(study, **both)[1], draws)


def test_what_does_not_fit_is_refused(study: Sbc) -> None:
    with pytest.raises(ValueError, match="num_fields must be 1 to 30, the simulations with a posterior, got 31"):
        draw(study, num_fields=31)
    with pytest.raises(ValueError, match="must give the true field 'dust', it gives level, n, x"):
        draw(study, truth="dust", num_fields=2)
    with pytest.raises(ValueError, match=r"truth and field must name as many fields, got 'x' and \['dust', 'noise'\]"):
        draw(study, field=["dust", "noise"], num_fields=2)
    with pytest.raises(ValueError, match="field must be one of dust, noise, got 'x'"):
        draw(study, field="x", num_fields=2)
    other = Sbc(("sigma",), study.records, study.attributes)
    with pytest.raises(ValueError, match="must rank every latent site, 'level' is not among sigma"):
        draw(other, num_fields=2)

    def without_a_field(y=None):
        level = numpyro.sample("level", dist.LogUniform(0.1, 1.0))
        numpyro.sample("y", dist.Normal(0.0, level).expand([1, SIZE, SIZE]).to_event(3), obs=y)

    with pytest.raises(ValueError, match="NoisyDiffusion"):
        study_fields(KEY, without_a_field, study, simulator=simulator, truth="x", num_fields=2, progress=False)
