"""Symmetries and conditioning of the U-Net."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bayesdiff.networks import UNet, UNetConfig
from bayesdiff.networks.unet import LinearAttention, fold, unfold

CONFIG = UNetConfig(in_channels=2, out_channels=3, num_context=2, channels=(8, 8, 16), blocks=(1, 1, 1), embedding=16)
LOG_SNR = jnp.array([1.0, -2.0])
CONTEXT = jnp.array([[0.2, -0.4], [0.9, 0.1]])


def perturbed(config: UNetConfig):
    """The network as a function, with every parameter moved away from its start, where half of them are zero."""
    graph, params = nnx.split(UNet(config, nnx.Rngs(0)))
    leaves, structure = jax.tree.flatten(params)
    rng = np.random.default_rng(1)
    leaves = [leaf + jnp.asarray(0.2 * rng.normal(size=leaf.shape), leaf.dtype) for leaf in leaves]
    network = nnx.merge(graph, jax.tree.unflatten(structure, leaves))
    return jax.jit(lambda *arguments: network(*arguments))


def fields(size: int = 16) -> jax.Array:
    return jax.random.normal(jax.random.key(2), (2, size, size, 2))


def shift_error(network, shift: tuple[int, int]) -> float:
    """Largest difference between the output of shifted fields and the shifted output, relative to the output's rms."""
    output = network(fields(), LOG_SNR, CONTEXT)
    shifted = network(jnp.roll(fields(), shift, axis=(1, 2)), LOG_SNR, CONTEXT)
    return float(jnp.abs(shifted - jnp.roll(output, shift, axis=(1, 2))).max() / output.std())


@pytest.fixture(scope="module")
def circular():
    return perturbed(CONFIG)


def test_starts_at_zero():
    output = nnx.jit(UNet(CONFIG, nnx.Rngs(0)))(fields(), LOG_SNR, CONTEXT)
    assert output.shape == (2, 16, 16, 3)
    np.testing.assert_array_equal(output, 0.0)


def test_rectangles_and_other_sizes(circular):
    assert circular(jnp.ones((1, 8, 24, 2)), LOG_SNR[:1], CONTEXT[:1]).shape == (1, 8, 24, 3)


def test_circular_padding_is_shift_equivariant(circular):
    """Up to the pixels of the lowest level, 4 with three levels; by less, pooling breaks it."""
    assert shift_error(circular, (4, 8)) < 1e-4
    assert shift_error(circular, (1, 0)) > 1e-2


@pytest.mark.parametrize("change", [{"padding": "REFLECT"}, {"seam": True}], ids=["reflect", "seam"])
def test_what_knows_the_edge_is_not(change):
    network = perturbed(replace(CONFIG, **change))
    assert network(fields(), LOG_SNR, CONTEXT).shape == (2, 16, 16, 3)
    assert shift_error(network, (4, 8)) > 1e-2


def test_conditioning_has_an_effect_per_field(circular):
    output = circular(fields(), LOG_SNR, CONTEXT)
    scale = float(output.std())
    for changed in (
        circular(fields(), LOG_SNR.at[1].add(0.5), CONTEXT),
        circular(fields(), LOG_SNR, CONTEXT.at[1, 0].add(0.3)),
    ):
        assert float(jnp.abs(changed[1] - output[1]).max()) > 1e-2 * scale
        np.testing.assert_allclose(changed[0], output[0], atol=1e-4 * scale)


def test_reaches_across_the_field(circular):
    """Attention at the lowest resolution: a pixel far away matters."""
    gradient = jax.jit(jax.grad(lambda h: circular(h, LOG_SNR, CONTEXT)[0, 0, 0, 0]))(fields())
    assert float(jnp.abs(gradient[0]).min(axis=-1).min()) > 0.0
    np.testing.assert_array_equal(gradient[1], 0.0)


def test_patches_are_folded_and_unfolded_without_loss():
    h = jnp.arange(2 * 8 * 4 * 3, dtype=jnp.float32).reshape(2, 8, 4, 3)
    folded = fold(h, 2)
    assert folded.shape == (2, 4, 2, 12)
    np.testing.assert_array_equal(folded[1, 1, 1].reshape(2, 2, 3), h[1, 2:4, 2:4])
    np.testing.assert_array_equal(unfold(folded, 2), h)


def test_network_of_patches_is_shift_equivariant():
    network = perturbed(replace(CONFIG, patch=2))
    assert network(fields(), LOG_SNR, CONTEXT).shape == (2, 16, 16, 3)
    assert shift_error(network, (8, 8)) < 1e-4
    assert shift_error(network, (1, 0)) > 1e-2


def attended(layer: LinearAttention, h: np.ndarray) -> np.ndarray:
    """Linear attention of one field (H, W, channels) by loops over heads and positions, without the input."""
    height, width, channels = h.shape
    size = channels // layer.heads
    normed = np.asarray(layer.norm(h[None])[0]).reshape(-1, channels)
    qkv = normed @ np.asarray(layer.qkv.kernel[...])
    qkv = qkv.reshape(-1, 3, layer.heads, size)
    out = np.zeros((height * width, layer.heads, size))
    for head in range(layer.heads):
        query, key, value = (qkv[:, part, head] for part in range(3))
        key = np.exp(key) / np.exp(key).sum(axis=0)
        query = np.exp(query) / np.exp(query).sum(axis=1, keepdims=True)
        sums = sum(np.outer(key[p], value[p]) for p in range(len(key)))
        for position in range(len(query)):
            out[position, head] = query[position] @ sums
    return (out.reshape(-1, channels) @ np.asarray(layer.out.kernel[...])).reshape(height, width, channels)


def test_linear_attention_by_its_definition():
    layer = LinearAttention(8, nnx.Rngs(0), heads=2)
    layer.out.kernel[...] = jax.random.normal(jax.random.key(3), (8, 8))
    h = jax.random.normal(jax.random.key(4), (1, 4, 6, 8))
    np.testing.assert_allclose(layer(h)[0] - h[0], attended(layer, np.asarray(h[0])), atol=1e-5)


def test_linear_attention_at_chosen_levels():
    """It starts as nothing, keeps the symmetry, and both layers of its level count."""
    config = replace(CONFIG, channels=(8, 8), blocks=(1, 1), attention=False, linear_attention=(0,))
    graph, params = nnx.split(UNet(config, nnx.Rngs(0)))
    square = jax.jit(lambda params, h: jnp.sum(nnx.merge(graph, params)(h, LOG_SNR, CONTEXT) ** 2))
    assert float(square(params, fields())) == 0.0
    moved = jax.tree.map(lambda leaf: leaf + 0.1, params)
    shifted = jnp.roll(fields(), (2, 6), axis=(1, 2))
    assert float(square(moved, shifted)) == pytest.approx(float(square(moved, fields())), rel=1e-5)
    tree = nnx.to_pure_dict(jax.grad(square)(moved, fields()))
    for part in ("linear_down", "linear_up"):
        assert float(jnp.abs(tree[part][0]["out"]["kernel"]).max()) > 0.0


def test_networks_without_linear_attention_have_the_weights_that_they_had():
    """Names and start values do not change by what a network does not have."""
    names = {jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_leaves_with_path(state(CONFIG))}
    assert not any("linear" in name for name in names)
    more = state(replace(CONFIG, linear_attention=(0,)))
    added = {jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_leaves_with_path(more)} - names
    assert added
    assert all("linear_down" in name or "linear_up" in name for name in added)


def state(config: UNetConfig) -> dict:
    return nnx.to_pure_dict(nnx.split(UNet(config, nnx.Rngs(0)))[1])


def test_levels_of_linear_attention_must_exist():
    with pytest.raises(ValueError, match="levels from 0 to 1, those above the lowest of 3, got"):
        replace(CONFIG, linear_attention=(2,))
