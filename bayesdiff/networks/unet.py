"""A U-Net for fields on a pixel grid, conditioned on the log-SNR and on the context.

Every residual block is modulated by a scale and shift (FiLM, Perez et al. 2018, arXiv:1709.07871) computed from Fourier
features of the log-SNR and from the context mapped to [-1, 1]. Convolutions pad periodically, as flat-sky fields do;
``padding="REFLECT"`` is for maps that are not periodic. Fields cut from a larger map have a seam where the torus
closes, in the same place in every map; ``seam=True`` shows the network where it lies, which a shift-equivariant network
could not know. The network works in (N, H, W, channels); callers keep (..., channels, H, W).
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from bayesdiff.networks.convolution import conv_general_dilated


@dataclass(frozen=True)
class UNetConfig:
    """Architecture of a :class:`UNet`.

    Attributes:
        in_channels: input maps per field.
        out_channels: output maps per field.
        num_context: conditioning scalars besides the log-SNR.
        channels: width of each level; each level halves the resolution of the one before.
        blocks: residual blocks per level, on the way down and again on the way up.
        embedding: width of the conditioning vector.
        attention: one self-attention layer at the lowest resolution.
        linear_attention: levels, from 0 at the highest resolution, whose blocks are followed by linear attention, on
            the way down and on the way up; not the lowest, which has the other.
        padding: ``"CIRCULAR"`` for periodic fields, ``"REFLECT"`` otherwise.
        seam: add an input map that marks the edge of the field.
        patch: side of the squares of pixels that the network sees as one, with a channel for each pixel: on a CPU most
            of the time goes to the highest resolution, and a patch of 2 saves two thirds of it.
    """

    in_channels: int
    out_channels: int
    num_context: int = 0
    channels: tuple[int, ...] = (32, 64, 128)
    blocks: tuple[int, ...] = (1, 2, 2)
    embedding: int = 128
    attention: bool = True
    linear_attention: tuple[int, ...] = ()
    padding: str = "CIRCULAR"
    seam: bool = False
    patch: int = 1

    def __post_init__(self):
        lowest = len(self.channels) - 1
        if any(not 0 <= level < lowest for level in self.linear_attention):
            raise ValueError(
                f"linear_attention must name levels from 0 to {lowest - 1}, those above the lowest of {lowest + 1}, "
                f"got {self.linear_attention}"
            )


def _conv(config: UNetConfig, inputs: int, outputs: int, rngs: nnx.Rngs, size: int = 3, zero: bool = False) -> nnx.Conv:
    init = nnx.initializers.zeros_init() if zero else nnx.initializers.variance_scaling(1.0, "fan_in", "normal")
    return nnx.Conv(
        inputs,
        outputs,
        (size, size),
        padding=config.padding,
        kernel_init=init,
        conv_general_dilated=conv_general_dilated,
        rngs=rngs,
    )


def _group_norm(channels: int, rngs: nnx.Rngs) -> nnx.GroupNorm:
    return nnx.GroupNorm(channels, num_groups=8, use_bias=False, use_scale=False, rngs=rngs)


class ResidualBlock(nnx.Module):
    """Two convolutions with group normalisation, the second modulated by the conditioning vector."""

    def __init__(self, config: UNetConfig, inputs: int, outputs: int, rngs: nnx.Rngs):
        self.norm1 = _group_norm(inputs, rngs)
        self.conv1 = _conv(config, inputs, outputs, rngs)
        self.film = nnx.Linear(config.embedding, 2 * outputs, kernel_init=nnx.initializers.zeros_init(), rngs=rngs)
        self.norm2 = _group_norm(outputs, rngs)
        self.conv2 = _conv(config, outputs, outputs, rngs, zero=True)
        self.skip = nnx.Linear(inputs, outputs, use_bias=False, rngs=rngs) if inputs != outputs else None

    def __call__(self, h: jax.Array, embedding: jax.Array) -> jax.Array:
        """Fields (N, H, W, inputs) to (N, H, W, outputs); embedding (N, config.embedding)."""
        residual = self.conv1(nnx.silu(self.norm1(h)))
        scale, shift = jnp.split(self.film(embedding)[:, None, None, :], 2, axis=-1)
        residual = self.conv2(nnx.silu(self.norm2(residual) * (1.0 + scale) + shift))
        return residual + (h if self.skip is None else self.skip(h))


class SelfAttention(nnx.Module):
    """Self-attention over all positions of a low-resolution level, added to its input."""

    def __init__(self, channels: int, rngs: nnx.Rngs, heads: int = 4):
        self.heads = heads
        self.norm = _group_norm(channels, rngs)
        self.qkv = nnx.Linear(channels, 3 * channels, use_bias=False, rngs=rngs)
        self.out = nnx.Linear(channels, channels, kernel_init=nnx.initializers.zeros_init(), rngs=rngs)

    def __call__(self, h: jax.Array) -> jax.Array:
        """Fields (N, H, W, channels) to the same shape."""
        num, height, width, channels = h.shape
        qkv = self.qkv(self.norm(h)).reshape(num, height * width, 3, self.heads, channels // self.heads)
        attended = jax.nn.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2])
        return h + self.out(attended.reshape(h.shape))


class LinearAttention(nnx.Module):
    """Attention over all positions at a cost linear in their number, added to its input (Shen et al. 2021, 1812.01243).

    Each head sums its values over positions with weights softmax(k) of each feature, and gives each position a mixture
    of these sums with weights softmax(q) over features: what the map holds of a kind, told where it matters.
    """

    def __init__(self, channels: int, rngs: nnx.Rngs, heads: int = 4):
        self.heads = heads
        self.norm = _group_norm(channels, rngs)
        self.qkv = nnx.Linear(channels, 3 * channels, use_bias=False, rngs=rngs)
        self.out = nnx.Linear(channels, channels, kernel_init=nnx.initializers.zeros_init(), rngs=rngs)

    def __call__(self, h: jax.Array) -> jax.Array:
        """Fields (N, H, W, channels) to the same shape."""
        num, height, width, channels = h.shape
        qkv = self.qkv(self.norm(h)).reshape(num, height * width, 3, self.heads, channels // self.heads)
        query, key = jax.nn.softmax(qkv[:, :, 0], axis=-1), jax.nn.softmax(qkv[:, :, 1], axis=1)
        sums = jnp.einsum("nphk,nphv->nhkv", key, qkv[:, :, 2])
        return h + self.out(jnp.einsum("nphk,nhkv->nphv", query, sums).reshape(h.shape))


class UNet(nnx.Module):
    """U-Net of :class:`UNetConfig`."""

    def __init__(self, config: UNetConfig, rngs: nnx.Rngs):
        self.config = config
        widths, num = config.channels, config.embedding
        self.embed1 = nnx.Linear(num + config.num_context, num, rngs=rngs)
        self.embed2 = nnx.Linear(num, num, rngs=rngs)
        inputs = config.in_channels + (2 if config.seam else 0)
        self.stem = _conv(config, inputs * config.patch**2, widths[0], rngs)

        down, merge, up = [], [], []
        previous = widths[0]
        for width, blocks in zip(widths, config.blocks, strict=True):
            inputs = [previous] + [width] * (blocks - 1)
            down.append(nnx.List([ResidualBlock(config, i, width, rngs) for i in inputs]))
            previous = width
        self.attention = SelfAttention(previous, rngs) if config.attention else None
        for width, blocks in zip(reversed(widths[:-1]), list(reversed(config.blocks))[1:], strict=True):
            merge.append(nnx.Linear(previous, width, rngs=rngs))
            inputs = [2 * width] + [width] * (blocks - 1)
            up.append(nnx.List([ResidualBlock(config, i, width, rngs) for i in inputs]))
            previous = width
        self.down, self.merge, self.up = nnx.List(down), nnx.List(merge), nnx.List(up)
        self.linear_down = self._linear_attention(rngs)
        self.linear_up = self._linear_attention(rngs)
        self.last_norm = _group_norm(previous, rngs)
        self.last = _conv(config, previous, config.out_channels * config.patch**2, rngs, zero=True)

    def __call__(self, h: jax.Array, log_snr: jax.Array, context: jax.Array) -> jax.Array:
        """Map fields (N, H, W, in_channels) to (N, H, W, out_channels).

        Args:
            h: input fields; H and W divisible by the patch times 2 to the number of levels less one.
            log_snr: log-SNR of each field, shape (N,).
            context: conditioning scalars scaled to about [-1, 1], shape (N, num_context).
        """
        embedding = self._embed(log_snr, context)
        if self.config.seam:
            h = jnp.concatenate([h, jnp.broadcast_to(_seam_maps(h), (*h.shape[:3], 2))], axis=-1)
        h = self.stem(fold(h, self.config.patch))
        skips = []
        for level, blocks in enumerate(self.down):
            if level:
                skips.append(h)
                h = halve(h)
            for block in blocks:
                h = block(h, embedding)
            h = self._attend(self.linear_down, level, h)
        if self.attention is not None:
            h = self.attention(h)
        for merge, blocks in zip(self.merge, self.up, strict=True):
            h = jnp.concatenate([_double(merge(h)), skips.pop()], axis=-1)
            for block in blocks:
                h = block(h, embedding)
            h = self._attend(self.linear_up, len(skips), h)
        return unfold(self.last(nnx.silu(self.last_norm(h))), self.config.patch)

    def _linear_attention(self, rngs: nnx.Rngs) -> nnx.List | None:
        # A network without has no such part, so that weights from before there was one still fit.
        levels = self.config.linear_attention
        layers = [LinearAttention(self.config.channels[level], rngs) for level in levels]
        return nnx.List(layers) if layers else None

    def _attend(self, layers: nnx.List | None, level: int, h: jax.Array) -> jax.Array:
        if layers is None or level not in self.config.linear_attention:
            return h
        return layers[self.config.linear_attention.index(level)](h)

    def _embed(self, log_snr: jax.Array, context: jax.Array) -> jax.Array:
        frequencies = jnp.geomspace(0.05, 5.0, self.config.embedding // 2).astype(log_snr.dtype)
        phase = log_snr[:, None] * frequencies[None, :]
        features = jnp.concatenate([jnp.sin(phase), jnp.cos(phase), context], axis=-1)
        return nnx.silu(self.embed2(nnx.silu(self.embed1(features))))


def _seam_maps(h: jax.Array) -> jax.Array:
    """Distance to the closing seam of the torus, as exp(-pixels) for rows and columns, shape (1, H, W, 2)."""
    _, height, width, _ = h.shape
    rows, columns = (
        jnp.exp(-jnp.minimum(jnp.arange(n), n - 1 - jnp.arange(n)) / 2.0).astype(h.dtype) for n in (height, width)
    )
    grid = jnp.stack(jnp.broadcast_arrays(rows[:, None], columns[None, :]), axis=-1)
    return grid[None]


def fold(h: jax.Array, patch: int) -> jax.Array:
    """Squares of pixels as channels, (N, H, W, channels) to (N, H / patch, W / patch, channels patch^2)."""
    num, height, width, channels = h.shape
    h = h.reshape(num, height // patch, patch, width // patch, patch, channels).swapaxes(2, 3)
    return h.reshape(num, height // patch, width // patch, channels * patch**2)


def unfold(h: jax.Array, patch: int) -> jax.Array:
    """Undo :func:`fold`."""
    num, height, width, channels = h.shape
    h = h.reshape(num, height, width, patch, patch, channels // patch**2).swapaxes(2, 3)
    return h.reshape(num, height * patch, width * patch, channels // patch**2)


def halve(h: jax.Array) -> jax.Array:
    """Average over squares of 2 x 2 positions, (N, H, W, channels) to (N, H / 2, W / 2, channels)."""
    num, height, width, channels = h.shape
    return h.reshape(num, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))


def _double(h: jax.Array) -> jax.Array:
    return jnp.repeat(jnp.repeat(h, 2, axis=1), 2, axis=2)
