r"""Cosmology by a network that regresses the posterior's mean and standard deviation on the field: a moment network.

The loss is the mean over simulations of the negative log density of a normal law in each parameter,

.. math:: L = E \sum_i [ \log s_i(x) + (\theta_i - m_i(x))^2 / (2 s_i(x)^2) ],

whose minimum over all functions m and s is the mean and the standard deviation of p(theta_i | x), whatever the shape of
the posterior, like that of the moment loss (Jeffrey & Wandelt 2020, arXiv:2011.05991), which the CAMELS papers use
(Villaescusa-Navarro et al. 2021, arXiv:2109.09747). The prior is the law of the simulations' parameters.

The network sees squares of 2 x 2 pixels as channels, convolves periodically and averages over positions, so that it is
invariant under shifts by four pixels; shifts by one, flips and quarter turns it learns from the training fields. It has
no normalisation by the field's own statistics: the amplitude of a field is what tells of the parameters.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bayesdiff.networks.convolution import conv_general_dilated
from bayesdiff.networks.unet import fold, halve
from bayesdiff.training_loop import TrainingSettings, TrainingState, advance, restore_or_start, run_steps
from bayesdiff.windows import LabelledFields
from models.density_fields.data import PARAMETER_BOUNDS
from models.density_fields.power_spectrum import Moments

PATCH = 2
CHANNELS = (16, 32, 64)
SETTINGS = TrainingSettings(
    steps=2400, batch_size=32, learning_rate=2e-3, warmup_steps=100, decay_fraction=0.6, weight_decay=1e-2,
    ema_decay=0.99, log_every=100
)  # fmt: skip
CHUNK = 256


class FieldRegression(nnx.Module):
    """Two periodic convolutions at each of three resolutions, the mean over positions, and two linear layers."""

    def __init__(self, channels: tuple[int, ...], num_outputs: int, rngs: nnx.Rngs):
        inputs, stages = PATCH**2, []
        for width in channels:
            stages.append(nnx.List([_convolution(inputs, width, rngs), _convolution(width, width, rngs)]))
            inputs = width
        self.stages = nnx.List(stages)
        self.hidden = nnx.Linear(inputs, inputs, rngs=rngs)
        self.last = nnx.Linear(inputs, num_outputs, kernel_init=nnx.initializers.zeros_init(), rngs=rngs)

    def __call__(self, fields: jax.Array) -> jax.Array:
        """Fields (N, H, W, 1) to outputs (N, num_outputs)."""
        h = fold(fields, PATCH)
        for level, stage in enumerate(self.stages):
            h = halve(h) if level else h
            for convolution in stage:
                h = nnx.silu(convolution(h))
        return self.last(nnx.silu(self.hidden(jnp.mean(h, axis=(1, 2)))))


def _convolution(inputs: int, outputs: int, rngs: nnx.Rngs) -> nnx.Conv:
    return nnx.Conv(
        inputs,
        outputs,
        (3, 3),
        padding="CIRCULAR",
        kernel_init=nnx.initializers.he_normal(),
        conv_general_dilated=conv_general_dilated,
        rngs=rngs,
    )


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class RegressionBaseline:
    """A trained or untrained network and the range of its parameters.

    Attributes:
        params: of :class:`FieldRegression`.
        low: lower ends of the parameters' range, shape (num_parameters,).
        high: upper ends.
        channels: widths of the network.
    """

    params: Any
    low: jax.Array
    high: jax.Array
    channels: tuple[int, ...] = field(metadata={"static": True})

    def __call__(self, fields: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mean and log standard deviation of standardised fields (N, 1, H, W), shape (N, num_parameters) both.

        Untrained they are those of the uniform law in the box.
        """
        network = nnx.merge(_graph(self.channels, 2 * len(self.low)), self.params)
        shift, log_scale = jnp.split(network(jnp.moveaxis(fields, 1, -1)), 2, axis=-1)
        prior_sd = (self.high - self.low) / jnp.sqrt(12.0)
        return 0.5 * (self.low + self.high) + prior_sd * shift, jnp.log(prior_sd) + log_scale


@lru_cache
def _graph(channels: tuple[int, ...], num_outputs: int) -> nnx.GraphDef:
    return nnx.split(nnx.eval_shape(lambda: FieldRegression(channels, num_outputs, nnx.Rngs(0))))[0]


def untrained_regression(
    seed: int = 0,
    channels: tuple[int, ...] = CHANNELS,
    bounds: Mapping[str, tuple[float, float]] = PARAMETER_BOUNDS,
) -> RegressionBaseline:
    """A network whose answer is the prior."""
    low, high = (jnp.asarray(ends, jnp.float32) for ends in zip(*bounds.values(), strict=True))
    params = nnx.to_pure_dict(nnx.state(FieldRegression(channels, 2 * len(bounds), nnx.Rngs(seed))))
    return RegressionBaseline(params, low, high, channels)


def negative_log_density(network: RegressionBaseline, fields: jax.Array, parameters: jax.Array) -> jax.Array:
    """The loss of each field (N, 1, H, W) and its parameters (N, num_parameters), in units of the prior's width."""
    mean, log_sd = network(fields)
    prior_sd = (network.high - network.low) / jnp.sqrt(12.0)
    z = (parameters - mean) * jnp.exp(-log_sd)
    return jnp.sum(log_sd - jnp.log(prior_sd) + 0.5 * z**2, axis=-1)


def train_regression(
    fields: LabelledFields,
    network: RegressionBaseline,
    settings: TrainingSettings = SETTINGS,
    folder: str | Path = "build/training",
    report: Callable[[str], None] = print,
) -> RegressionBaseline:
    """Train a network, continuing from the checkpoint in ``folder`` where there is one.

    Args:
        fields: standardised training fields and their parameters.
        network: from :func:`untrained_regression`.
        settings: how to train.
        folder: of the checkpoint and of ``progress.jsonl``.
        report: receives a line of progress now and then.

    Raises:
        ValueError: the checkpoint is damaged or belongs to another network, or fields of another shape.
    """
    _check(network, fields.fields)
    folder = Path(folder)
    state = restore_or_start(network.params, settings, folder)

    @jax.jit
    def update(state: TrainingState, fields: LabelledFields) -> tuple[TrainingState, jax.Array]:
        key = jax.random.fold_in(jax.random.key(settings.seed), state.step)
        chosen = jax.vmap(fields.choose)(jax.random.split(key, settings.batch_size))
        value, gradient = jax.value_and_grad(
            lambda params: jnp.mean(negative_log_density(replace(network, params=params), chosen.field, chosen.context))
        )(state.params)
        return advance(state, gradient, settings), value

    log = partial(_log, folder / "progress.jsonl", settings, report)
    state = run_steps(lambda state: update(state, fields), state, settings, folder, log)
    return replace(network, params=state.ema)


def predict(network: RegressionBaseline, fields: np.ndarray) -> Moments:
    """Posterior mean and standard deviation of standardised fields (N, 1, H, W).

    Raises:
        ValueError: fields of another shape.
    """
    _check(network, fields)
    compute = jax.jit(network.__call__)
    parts = [compute(jnp.asarray(fields[i : i + CHUNK], jnp.float32)) for i in range(0, len(fields), CHUNK)]
    mean, log_sd = (
        np.concatenate([np.asarray(part, np.float64) for part in column]) for column in zip(*parts, strict=True)
    )
    return Moments(mean, np.exp(log_sd))


def _check(network: RegressionBaseline, fields: Any) -> None:
    shape, reduction = np.shape(fields), PATCH * 2 ** (len(network.channels) - 1)
    if len(shape) != 4 or shape[1] != 1 or shape[2] % reduction or shape[3] % reduction:
        raise ValueError(f"fields must have shape (N, 1, H, W) with H and W divisible by {reduction}, got {shape}")


def _log(path: Path, settings: TrainingSettings, report: Callable, step: int, history: list, rate: float) -> None:
    loss = float(np.mean(history))
    with open(path, "a") as file:
        file.write(json.dumps({"step": step, "loss": loss, "s_per_step": rate}) + "\n")
    left = rate * (settings.steps - step) / 60.0
    report(f"step {step}/{settings.steps}  loss {loss:.4f}  {rate:.2f} s/step  {left:.0f} min left")
