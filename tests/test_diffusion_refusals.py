"""Bad input is refused with its name, what was expected and what came; traced values pass."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayesdiff.diffusion.denoiser import GaussianDenoiser
from bayesdiff.diffusion.model import DiffusionModel
from bayesdiff.diffusion.noise import WhiteNoise
from bayesdiff.diffusion.refusals import inside, is_concrete, refuse_non_finite, refuse_outside, refuse_shape
from bayesdiff.diffusion.schedules import VPLinear
from tests.diffusion_toys import twin_model


def test_outside_names_value_and_range():
    with pytest.raises(ValueError, match=r"^sigma must lie in \[0\.1, 1\.2\] \(the prior\), got 1\.3$"):
        refuse_outside("sigma", np.array([0.5, 1.3, 2.0]), 0.1, 1.2, "the prior")
    with pytest.raises(ValueError, match="got nan"):
        refuse_outside("sigma", float("nan"), 0.1, 1.2, "the prior")
    refuse_outside("sigma", np.float32(1.2), 0.1, 1.2, "the prior")
    refuse_outside("sigma", np.float32(0.1), 0.1, 1.2, "the prior")
    refuse_outside("sigma", 1e9, 0.1, np.inf, "anything")


def test_concrete_and_traced_values_are_judged_alike():
    values = np.array([0.1 - 3e-6, 0.1, 0.7, 1.2, 1.2 + 1e-5, np.nan])
    expected = [False, True, True, True, False, False]
    np.testing.assert_array_equal(jax.jit(lambda v: inside(v, 0.1, 1.2))(values), expected)
    for value, fine in zip(values, expected, strict=True):
        if fine:
            refuse_outside("sigma", value, 0.1, 1.2, "the prior")
        else:
            with pytest.raises(ValueError, match="sigma must lie in"):
                refuse_outside("sigma", value, 0.1, 1.2, "the prior")


def test_tracers_are_not_looked_at():
    @jax.jit
    def run(x):
        assert not is_concrete({"a": 1.0, "b": x})
        refuse_outside("sigma", x, 0.0, 1.0, "the prior")
        refuse_non_finite("map", x)
        return x

    assert run(3.0) == 3.0
    assert is_concrete({"a": 1.0, "b": jnp.ones(2)})


@pytest.mark.parametrize("shape", [(8, 8), (1, 8, 9), (2, 8, 8), (8,), ()])
def test_shape_says_what_came(shape):
    with pytest.raises(ValueError, match=r"map must have shape \(\.\.\., 1, 8, 8\), got \("):
        refuse_shape("map", np.zeros(shape), (1, 8, 8))
    refuse_shape("map", np.zeros((4, 1, 8, 8)), (1, 8, 8))


def test_non_finite_says_how_many_and_where():
    field = np.zeros((1, 4, 4))
    field[0, 1, 2], field[0, 3, 3] = np.inf, np.nan
    with pytest.raises(
        ValueError, match=r"map must be finite, got 2 NaN or infinite values, the first at index \(0, 1, 2\)"
    ):
        refuse_non_finite("map", field)
    refuse_non_finite("map", np.zeros((1, 4, 4)))


@pytest.mark.parametrize("event_shape", [(8, 8), [1, 8, 8], (1, 0, 8)], ids=["2-d", "list", "empty"])
def test_event_shape_is_channels_height_width(event_shape):
    with pytest.raises(ValueError, match=r"event_shape must be \(channels, height, width\)"):
        DiffusionModel(GaussianDenoiser(np.ones((8, 8))), VPLinear(), WhiteNoise(), event_shape)


def test_contexts_of_an_unconditional_model_are_refused():
    model = DiffusionModel(GaussianDenoiser(np.ones((8, 8))), VPLinear(), WhiteNoise(), (1, 8, 8))
    for context in ((0.3,), 0.3, {"H0": 70.0}):
        with pytest.raises(ValueError, match="context must"):
            model.context_array(context)
    assert model.context_array(None).shape == (0,)
    assert model.context_array({}).shape == (0,)


def test_denoise_refuses_a_wrong_shape():
    with pytest.raises(ValueError, match=r"z must have shape \(\.\.\., 1, 8, 8\), got \(8, 8\)"):
        twin_model(8).denoise(jnp.zeros((8, 8)), 0.5, (1.0, 0.0))
