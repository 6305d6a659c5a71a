r"""Emulator of the lensed CMB temperature spectrum, differentiable in (H0, omega_b).

A multilayer perceptron maps the two parameters, scaled to [-1, 1], to the coefficients of a principal component basis:

.. math:: \log C_\ell(H_0, \omega_b) = m_\ell + \sum_j f_j(H_0, \omega_b) B_{j\ell}, \qquad \ell = 2, ..., 2500.

It stands for CAMB (Lewis, Challinor and Lasenby 2000, arXiv:astro-ph/9911177) at fixed omega_k = 0, omega_c = 0.12,
tau = 0.0544, n_s = 0.9649, ln(10^10 A_s) = 3.044 and m_nu = 0.08 eV. The weights and a card (box, CAMB settings and
version, training design, measured error, hash) lie next to this file; ``python -m bayesdiff.cosmology.build_emulator``
rebuilds both. Nothing is ever extrapolated: outside the box a concrete value is refused and a traced one gives NaN.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from bayesdiff.cosmology.camb_table import BOX, LMAX

LMIN = 2
WEIGHTS = Path(__file__).with_name("cmb_emulator.safetensors")
# A bound that went through float32 or a bijection may miss the edge of the box by rounding.
_EDGE_TOLERANCE = 1e-6


class EmulatorWeights(NamedTuple):
    """Arrays of the emulator, all NumPy (traced code may then use them from any JAX transformation).

    Attributes:
        kernels: one matrix (inputs, outputs) per layer.
        biases: one vector (outputs,) per layer.
        mean: mean log C_ell, shape (2499,).
        basis: components of log C_ell, shape (num_components, 2499).
    """

    kernels: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]
    mean: np.ndarray
    basis: np.ndarray


def load_weights(path: Path = WEIGHTS) -> tuple[EmulatorWeights, dict[str, Any]]:
    """Read the emulator and its card, checking the one against the other.

    Args:
        path: the safetensors file; its card has the same name with the ending ``.json``.

    Returns:
        The weights and the card.

    Raises:
        FileNotFoundError: one of the two files is missing.
        ValueError: the weights are not those of the card, or the card is for another box.
    """
    from safetensors.numpy import load

    card_path = path.with_suffix(".json")
    for file in (path, card_path):
        if not file.exists():
            raise FileNotFoundError(
                f"The CMB emulator needs {file.name}, which is not in {file.parent}; "
                "`python -m bayesdiff.cosmology.build_emulator` makes it."
            )
    content = path.read_bytes()
    try:
        card = json.loads(card_path.read_text())
        expected, box = card["sha256"], {name: tuple(bounds) for name, bounds in card["box"].items()}
    except (json.JSONDecodeError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"The emulator card {card_path.name} is damaged ({error!r}).") from error
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise ValueError(
            f"The emulator weights {path.name} are not those of their card: sha256 {found[:16]}..., "
            f"expected {expected[:16]}... The file was changed or cut short; restore it or rebuild it."
        )
    if box != BOX:
        raise ValueError(f"The emulator card {card_path.name} is for the box {box}, this version works on {BOX}.")
    arrays = load(content)
    num_layers = sum(name.startswith("kernel_") for name in arrays)
    weights = EmulatorWeights(
        kernels=tuple(arrays[f"kernel_{i}"] for i in range(num_layers)),
        biases=tuple(arrays[f"bias_{i}"] for i in range(num_layers)),
        mean=arrays["mean"],
        basis=arrays["basis"],
    )
    return weights, card


@lru_cache(maxsize=1)
def shipped_weights() -> EmulatorWeights:
    """The emulator of this package, read at the first call."""
    return load_weights()[0]


def network(kernels: tuple[ArrayLike, ...], biases: tuple[ArrayLike, ...], unit: jax.Array) -> jax.Array:
    """The perceptron itself: scaled parameters (N, 2) to component coefficients (N, num_components)."""
    hidden = unit
    for index, (kernel, bias) in enumerate(zip(kernels, biases, strict=True)):
        hidden = hidden @ jnp.asarray(kernel, unit.dtype) + jnp.asarray(bias, unit.dtype)[None, :]
        if index < len(kernels) - 1:
            hidden = jnp.tanh(hidden)
    return hidden


def check_box(parameters: Mapping[str, ArrayLike]) -> None:
    """Refuse concrete parameter values outside the box of the emulator; traced values pass.

    Args:
        parameters: values of any shape by name, of the names of ``BOX``.

    Raises:
        ValueError: a value is outside its range or not finite.
    """
    for name, value in parameters.items():
        if isinstance(value, Tracer):
            continue
        low, high = BOX[name]
        margin = _EDGE_TOLERANCE * (high - low)
        flat = np.asarray(value, dtype=float).ravel()
        outside = ~((flat >= low - margin) & (flat <= high + margin))
        if outside.any():
            others = f" ({outside.sum()} of {flat.size} values are outside)" if flat.size > 1 else ""
            raise ValueError(
                f"{name} = {flat[outside][0]:g} is outside [{low:g}, {high:g}], the range of the CMB emulator{others}."
            )


def emulate_log(H0: ArrayLike, omega_b: ArrayLike, mean: np.ndarray, basis: np.ndarray) -> jax.Array:
    """Log C_ell at the multipoles of ``mean`` (M,) and ``basis`` (num_components, M); NaN outside the box.

    Args:
        H0: Hubble constant [km/s/Mpc], any shape.
        omega_b: Omega_b h^2, any shape that broadcasts with H0.
        mean: mean of log C_ell at the wanted multipoles.
        basis: components of log C_ell there.

    Returns:
        Log of C_ell / muK^2, shape (..., M).

    Raises:
        ValueError: a concrete parameter is outside the box.
    """
    check_box({"H0": H0, "omega_b": omega_b})
    dtype = jnp.result_type(H0, omega_b, float)
    H0, omega_b = jnp.asarray(H0, dtype), jnp.asarray(omega_b, dtype)
    batch = jnp.broadcast_shapes(H0.shape, omega_b.shape)
    unit, inside = [], jnp.ones(int(np.prod(batch)), bool)
    for value, (low, high) in zip((H0, omega_b), BOX.values(), strict=True):
        scaled = (jnp.broadcast_to(value, batch).ravel() - 0.5 * (low + high)) / (0.5 * (high - low))
        inside = inside & (jnp.abs(scaled) <= 1.0 + 2.0 * _EDGE_TOLERANCE)
        unit.append(scaled)
    weights = shipped_weights()
    coefficients = network(weights.kernels, weights.biases, jnp.stack(unit, axis=-1))
    coefficients = jnp.where(inside[:, None], coefficients, jnp.nan)
    log_spectrum = jnp.asarray(mean, dtype)[None, :] + coefficients @ jnp.asarray(basis, dtype)
    return log_spectrum.reshape(*batch, mean.shape[-1])


def cmb_spectrum(H0: ArrayLike, omega_b: ArrayLike) -> jax.Array:
    """Lensed CMB temperature spectrum C_ell [muK^2] for ell = 2, ..., 2500.

    Args:
        H0: Hubble constant [km/s/Mpc], in [50, 90], any shape.
        omega_b: physical baryon density Omega_b h^2, in [0.0075, 0.0567], any shape that broadcasts with H0.

    Returns:
        C_ell, shape (..., 2499), entry 0 being ell = 2; differentiable. Traced values outside the box give NaN.

    Raises:
        ValueError: a concrete parameter is outside the box.
    """
    weights = shipped_weights()
    return jnp.exp(emulate_log(H0, omega_b, weights.mean, weights.basis))


__all__ = ["BOX", "LMAX", "LMIN", "EmulatorWeights", "check_box", "cmb_spectrum", "emulate_log", "load_weights"]
