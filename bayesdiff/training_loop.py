"""What every training shares: settings, state, optimiser, and a loop that may be interrupted.

A checkpoint holds all of the state and every random number of step i is to be derived from (seed, i), so that an
interrupted training continues as if it had not been interrupted. What is kept is the exponential moving average of the
parameters.

Imports only jax, optax, numpy and safetensors.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from bayesdiff import devices

CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True)
class TrainingSettings:
    """How to train.

    Attributes:
        steps: optimiser steps in all; may be lowered or raised between restarts while the learning rate is constant.
        batch_size: maps per step.
        pool_size: windows that a step's maps are chosen from and that share their target, see
            :mod:`bayesdiff.windows`.
        learning_rate: after the warm-up, constant until the last ``decay_fraction`` of the steps, then a cosine to
            zero.
        warmup_steps: steps of linear warm-up.
        decay_fraction: share of the steps over which the learning rate decays.
        weight_decay: of AdamW.
        ema_decay: of the exponential moving average of the parameters, which is what is kept.
        clip_norm: bound on the global norm of a gradient.
        checkpoint_every: steps between checkpoints.
        log_every: steps between lines of progress.
        seed: of every random number.
        spots: share of the fields that have spots which are to be taken away (:mod:`bayesdiff.spots`).

    Raises:
        ValueError: for steps, a batch or a pool that are not positive, or shares that are not between 0 and 1.
    """

    steps: int = 8000
    batch_size: int = 16
    pool_size: int = 256
    learning_rate: float = 1e-3
    warmup_steps: int = 300
    decay_fraction: float = 0.3
    weight_decay: float = 1e-4
    ema_decay: float = 0.999
    clip_norm: float = 1.0
    checkpoint_every: int = 250
    log_every: int = 50
    seed: int = 0
    spots: float = 0.0

    def __post_init__(self):
        for name in ("steps", "batch_size", "pool_size", "checkpoint_every", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("decay_fraction", "ema_decay", "spots"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)}")

    def refinement(self, length: float = 1.2) -> TrainingSettings:
        """How a trained network is trained further: ``length`` times as long at half the rate, most of it falling."""
        return replace(
            self,
            steps=max(1, round(self.steps * length)),
            learning_rate=0.5 * self.learning_rate,
            warmup_steps=self.warmup_steps // 3,
            decay_fraction=0.6,
        )


class TrainingState(NamedTuple):
    """All that a training needs to go on.

    Attributes:
        params: parameters.
        ema: their exponential moving average.
        optimiser: state of the optimiser.
        step: steps taken.
    """

    params: Any
    ema: Any
    optimiser: Any
    step: jax.Array


def restore_or_start(params: Any, settings: TrainingSettings, folder: Path) -> TrainingState:
    """The state of the last checkpoint in ``folder``, or where there is none that of a training from ``params``.

    Raises:
        ValueError: the checkpoint is damaged or belongs to another network.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = TrainingState(params, params, make_optimiser(settings).init(params), jnp.asarray(0))
    return _restore(folder / CHECKPOINT, state)


def advance(state: TrainingState, gradient: Any, settings: TrainingSettings) -> TrainingState:
    """One step along a gradient of the loss with respect to the parameters."""
    updates, optimiser = make_optimiser(settings).update(gradient, state.optimiser, state.params)
    params = optax.apply_updates(state.params, updates)
    decay = jnp.minimum(settings.ema_decay, (1.0 + state.step) / (10.0 + state.step))
    ema = jax.tree.map(lambda old, new: decay * old + (1.0 - decay) * new, state.ema, params)
    return TrainingState(params, ema, optimiser, state.step + 1)


def run_steps(
    update: Callable[[TrainingState], tuple[TrainingState, Any]],
    state: TrainingState,
    settings: TrainingSettings,
    folder: Path,
    log: Callable[[int, list[Any], float], None],
) -> TrainingState:
    """Take the steps that are left, writing a checkpoint now and then; of several processes the first writes.

    Args:
        update: takes a step; the second result is what is told of it.
        state: where to begin.
        settings: how to train.
        folder: of the checkpoint.
        log: is told now and then (step, what the steps since the last time told, seconds per step).
    """
    history: list[Any] = []
    started, first = time.monotonic(), int(state.step)
    while int(state.step) < settings.steps:
        state, told = update(state)
        history.append(jax.tree.map(np.asarray, told))
        step = int(state.step)
        if not devices.is_first_process():
            history.clear()
            continue
        if step % settings.log_every == 0 or step == settings.steps:
            log(step, history, (time.monotonic() - started) / (step - first))
            history.clear()
        if step % settings.checkpoint_every == 0 or step == settings.steps:
            _save(folder / CHECKPOINT, state)
    return state


def make_optimiser(settings: TrainingSettings) -> optax.GradientTransformation:
    """AdamW on clipped gradients: a linear warm-up, a constant learning rate, and a cosine to zero at the end."""
    decay_steps = max(1, int(settings.decay_fraction * settings.steps))
    rate = optax.join_schedules(
        [
            optax.linear_schedule(0.0, settings.learning_rate, settings.warmup_steps),
            optax.constant_schedule(settings.learning_rate),
            optax.cosine_decay_schedule(settings.learning_rate, decay_steps),
        ],
        [settings.warmup_steps, max(settings.warmup_steps, settings.steps - decay_steps)],
    )
    return optax.chain(
        optax.clip_by_global_norm(settings.clip_norm),
        optax.adamw(rate, b2=0.99, weight_decay=settings.weight_decay),
    )


def named_arrays(tree: Any) -> dict[str, np.ndarray]:
    """The arrays of a tree by their place in it."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def from_named_arrays[Tree](template: Tree, arrays: dict[str, np.ndarray]) -> Tree:
    """A tree like ``template``, whose leaves need only have shapes, of arrays that :func:`named_arrays` gave.

    Raises:
        ValueError: the arrays are those of another tree; the message names those that differ.
    """
    leaves = jax.tree_util.tree_leaves_with_path(template)
    expected = {jax.tree_util.keystr(path): tuple(leaf.shape) for path, leaf in leaves}
    wrong = sorted(
        name
        for name in expected.keys() | arrays.keys()
        if name not in arrays or arrays[name].shape != expected.get(name)
    )
    if wrong:
        found = arrays[wrong[0]].shape if wrong[0] in arrays else "none"
        raise ValueError(
            f"{len(wrong)} arrays do not fit, first {wrong[0]}: expected {expected.get(wrong[0], 'none')}, got {found}"
        )
    return jax.tree.unflatten(jax.tree.structure(template), [jnp.asarray(arrays[name]) for name in expected])


def _save(path: Path, state: TrainingState) -> None:
    partial = path.with_suffix(".partial")
    save_file(named_arrays(state), partial)
    os.replace(partial, path)


def _restore(path: Path, state: TrainingState) -> TrainingState:
    if not path.exists():
        return state
    try:
        with safe_open(path, framework="numpy") as file:
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
    except SafetensorError as error:
        raise ValueError(
            f"the checkpoint {path} is truncated or damaged ({error}); move it away to start afresh"
        ) from error
    try:
        return from_named_arrays(state, stored)
    except ValueError as error:
        raise ValueError(
            f"the checkpoint {path} belongs to another network or optimiser ({error}); move it away to start afresh"
        ) from None
