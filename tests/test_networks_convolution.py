import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from bayesdiff.networks.convolution import conv_general_dilated, convolve


@pytest.fixture
def inputs():
    keys = jax.random.split(jax.random.key(0))
    return jax.random.normal(keys[0], (2, 8, 10, 3)), jax.random.normal(keys[1], (3, 3, 3, 5))


@pytest.mark.parametrize("padding", [0, 1, 2])
def test_convolve_is_the_convolution_of_lax(inputs, padding):
    labels = ("NHWC", "HWIO", "NHWC")
    expected = jax.lax.conv_general_dilated(*inputs, (1, 1), [(padding, padding)] * 2, dimension_numbers=labels)
    np.testing.assert_allclose(convolve(*inputs, padding), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("padding", [0, 2])
def test_first_and_second_derivatives_in_both_modes(inputs, padding):
    with jax.enable_x64(True):
        fields, kernel = (jnp.asarray(np.asarray(array), jnp.float64) for array in inputs)
        check_grads(lambda x, w: jnp.sum(convolve(jnp.tanh(x), w, padding) ** 3), (fields, kernel), order=2)


def test_batches_of_fields_and_of_kernels(inputs):
    fields, kernel = inputs
    stack, kernels = jnp.stack([fields, 2.0 * fields]), jnp.stack([kernel, -kernel])
    expected = convolve(fields, kernel)
    np.testing.assert_allclose(jax.vmap(convolve, (0, None))(stack, kernel)[1], 2.0 * expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(jax.vmap(convolve, (None, 0))(fields, kernels)[1], -expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(jax.vmap(convolve)(stack, kernels)[1], -2.0 * expected, rtol=1e-5, atol=1e-5)


def test_no_convolution_of_a_gradient_in_a_loop_has_its_channels_swapped_by_label(inputs):
    """Such a convolution is what XLA's CPU compiler runs tens of times slower within a loop."""
    fields, kernel = inputs
    square = jax.random.normal(jax.random.key(1), (3, 3, 3, 3))

    def loop(convolution, x):
        body = jax.checkpoint(lambda x, _: (jnp.tanh(convolution(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))))), None))
        return jnp.sum(jax.lax.scan(body, x, length=4)[0])

    def labels(convolution):
        return jax.jit(jax.grad(lambda x: loop(convolution, x))).lower(fields).compile().as_text()

    def by_lax(x):
        labels = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, square, (1, 1), "VALID", dimension_numbers=labels)

    assert "01oi" in labels(by_lax), "XLA does it now: convolution.py has had its day"
    assert "01oi" not in labels(lambda x: convolve(x, square))


def test_convolutions_that_the_networks_do_not_use_are_refused(inputs):
    with pytest.raises(NotImplementedError, match="strides"):
        conv_general_dilated(*inputs, (2, 2), "VALID")
