"""Convolution whose gradient is as fast as its value, also inside a loop.

The gradient of ``lax.conv_general_dilated`` with respect to its fields is a convolution with the kernel's channels
swapped by a label instead of in memory. XLA's CPU compiler puts such labels in order in the outermost computation of a
program only; within a loop (a bound's batches, a flow's steps, a chain) it falls back to code that is tens of times
slower. Here the gradient swaps the kernel itself. Everything else is left to ``lax``.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

LABELS = ("NHWC", "HWIO", "NHWC")


def convolve(fields: jax.Array, kernel: jax.Array, padding: int = 0) -> jax.Array:
    """Correlate fields with a kernel, as ``lax.conv_general_dilated`` does.

    Args:
        fields: shape (N, H, W, inputs).
        kernel: square, shape (size, size, inputs, outputs).
        padding: zeros added on each side of the fields.

    Returns:
        shape (N, H + 2 padding - size + 1, W + 2 padding - size + 1, outputs).
    """
    return _convolution.bind(fields, kernel, padding=padding)


def conv_general_dilated(fields, kernel, strides, padding, **settings) -> jax.Array:
    """:func:`convolve` in the place of ``lax.conv_general_dilated``, for ``nnx.Conv(conv_general_dilated=...)``.

    Raises:
        NotImplementedError: anything but a plain convolution of already padded fields was asked for.
    """
    plain = padding == "VALID" and set(strides) == {1} and settings.get("feature_group_count", 1) == 1
    if not plain or {*settings.get("lhs_dilation", (1,)), *settings.get("rhs_dilation", (1,))} != {1}:
        raise NotImplementedError(f"convolutions with padding {padding!r}, strides {strides} and {settings}")
    return convolve(fields, kernel)


def _by_lax(fields, kernel, *, padding):
    sides = [(padding, padding)] * 2
    return lax.conv_general_dilated(fields, kernel, (1, 1), sides, dimension_numbers=LABELS)


def _abstract(fields, kernel, *, padding):
    out = jax.eval_shape(lambda *args: _by_lax(*args, padding=padding), fields, kernel)
    return ShapedArray(out.shape, out.dtype)


def _transpose_fields(cotangent, fields, kernel, *, padding):
    flipped = jnp.swapaxes(jnp.flip(kernel, (0, 1)), 2, 3)
    return convolve(cotangent, flipped, kernel.shape[0] - 1 - padding)


def _transpose_kernel(cotangent, fields, kernel, *, padding):
    (gradient,) = jax.linear_transpose(lambda w: _by_lax(fields, w, padding=padding), kernel.aval)(cotangent)
    return gradient


def _batch(operands, axes, *, padding):
    """One kernel for a batch of fields is a larger number of fields; a batch of kernels is lax's affair."""
    (fields, kernel), (axis, kernel_axis) = operands, axes
    if kernel_axis is not None:
        return jax.vmap(lambda *args: _by_lax(*args, padding=padding), in_axes=axes)(fields, kernel), 0
    fields = jnp.moveaxis(fields, axis, 0)
    out = convolve(fields.reshape(-1, *fields.shape[2:]), kernel, padding)
    return out.reshape(*fields.shape[:2], *out.shape[1:]), 0


_convolution = Primitive("field_convolution")
_convolution.def_impl(jax.jit(_by_lax, static_argnames="padding"))
_convolution.def_abstract_eval(_abstract)
mlir.register_lowering(_convolution, mlir.lower_fun(_by_lax, multiple_results=False))
ad.defbilinear(_convolution, _transpose_fields, _transpose_kernel)
batching.primitive_batchers[_convolution] = _batch
