"""The campaign over likelihoods of dark-matter fields: what is observed belongs to its parameters, and its figures."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayesdiff.calibration import sbc
from bayesdiff.windows import LabelledFields
from tests.sbc_toys import Conjugate, model
from validation.density_calibration import NAMES, observe, of_study


def test_a_map_comes_with_the_parameters_of_its_simulation() -> None:
    contexts = jnp.asarray([[0.1, 0.6], [0.2, 0.7], [0.3, 0.8]])
    fields = contexts[:, :1, None, None] * jnp.ones((3, 1, 8, 8))
    sites = jax.vmap(lambda key: observe(LabelledFields(fields, contexts), key))(
        jax.random.split(jax.random.key(0), 64)
    )
    assert set(sites) == {"x", *NAMES}
    assert sites["x"].shape == (64, 1, 8, 8)
    np.testing.assert_allclose(sites["x"].mean(axis=(1, 2, 3)), sites["Omega_m"], rtol=1e-6)
    np.testing.assert_allclose(sites["sigma_8"], sites["Omega_m"] + 0.5, rtol=1e-6)
    assert len(np.unique(sites["Omega_m"])) == 3


@pytest.mark.parametrize(("width", "calibrated"), [(1.0, True), (0.5, False)])
def test_figures_tell_an_estimator_that_is_too_sure(width: float, calibrated: bool) -> None:
    settings = {"num_simulations": 200, "num_chains": 1, "num_samples": 60, "num_draws": 39, "progress": False}
    study = sbc(jax.random.key(1), model, algorithm=Conjugate(width=width), **settings)
    found = {figure.name: figure.value for figure in of_study("toy", study)}
    p = found["toy: smallest adjusted p-value of the ranks, 200 fields"]
    assert isinstance(p, float)
    assert (p > 0.01) == calibrated
    assert found["toy: fields that failed"] == "0 of 200"
    # The error does not depend on how sure the posterior is, its width does.
    sd, error = (found[f"toy: mean: {what}"] for what in ("median standard deviation", "rms error of the mean"))
    assert sd / error == pytest.approx(width, rel=0.25)
