"""Training of a Wiener-preconditioned denoiser on maps.

The loss is the mean square in the whitened basis, E |N - V^(-1/2) F(x - D_W)|^2, whose value for the Wiener filter is
one in every mode, at every noise level and every context. Modes are weighted by the signal's share a of their power: at
high noise most modes hold nothing to learn, and unweighted they would drown those that do. Windows are weighted by
their contrast, as far as y shows it: in the whitened basis faint windows count as much as bright ones. Times are
stratified over the batch and uniform under the model's noise schedule; contexts are uniform in their box. Maps are
augmented by random shifts (periodic where the map is), flips and quarter turns; those of one step come from a pool,
over which the target is averaged (see :mod:`bayesdiff.windows`). Every random number of step i is derived from (seed,
i), and a checkpoint holds all of the state, so that an interrupted training continues as if it had not been
interrupted.

Imports only jax, flax, optax, numpy and safetensors.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from bayesdiff import devices
from bayesdiff.diffusion.fourier import filter_field
from bayesdiff.diffusion.noise import Noise
from bayesdiff.diffusion.schedules import Schedule
from bayesdiff.examples import draw_example
from bayesdiff.networks.wiener import WienerDenoiser
from bayesdiff.recalibration import recalibrate
from bayesdiff.windows import TrainingFields, TrainingPool

NUM_LOSS_BANDS = 8


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


class _State(NamedTuple):
    params: Any
    ema: Any
    optimiser: Any
    step: jax.Array


def train(
    windows: TrainingFields,
    denoiser: WienerDenoiser,
    schedule: Schedule,
    noise: Noise,
    settings: TrainingSettings = TrainingSettings(),
    folder: str | Path = "build/training",
    report: Callable[[str], None] = print,
) -> WienerDenoiser:
    """Train the network of ``denoiser``, continuing from the last checkpoint in ``folder`` where there is one.

    On several devices each takes its share of the maps of a step, as many devices as divide the batch; the result is
    that of one device, to rounding. Of several processes the first writes to ``folder``, which all must see.

    Args:
        windows: training maps, or fields with the context that each was simulated at.
        denoiser: from :func:`bayesdiff.networks.wiener.initialise`.
        schedule: noise schedule; times are uniform under it.
        noise: noise of the diffusion; its power is called with contexts uniform in the denoiser's box.
        settings: how to train.
        folder: where checkpoints and ``progress.jsonl`` are kept.
        report: receives a line of progress now and then.

    Returns:
        The denoiser with the averaged parameters, recalibrated (:mod:`bayesdiff.recalibration`).

    Raises:
        ValueError: if the checkpoint in ``folder`` is damaged or belongs to another network, or the maps are smaller
            than a window.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    optimiser = _optimiser(settings)
    state = _State(denoiser.params, denoiser.params, optimiser.init(denoiser.params), jnp.asarray(0))
    state = _restore(folder / "checkpoint.safetensors", state)
    mesh = devices.mesh_for(settings.batch_size)
    if mesh is not None:
        state = devices.place(state, mesh)

    def mean_gradient(shared: tuple[Any, TrainingPool], keys: jax.Array, t: jax.Array) -> tuple[Any, jax.Array]:
        """Gradient of the mean loss of some maps, and the loss of each."""
        params, pool = shared
        examples = jax.vmap(lambda k, t: draw_example(k, t, pool, denoiser, schedule, noise))(keys, t)

        def loss(params):
            outputs = jax.vmap(lambda e: denoiser.with_params(params).raw(*e[:4])[2])(examples)
            weighted = jax.vmap(filter_field)(outputs - examples.target, jnp.sqrt(examples.weight))
            per_map = examples.importance * examples.contrast * jnp.mean(weighted**2, axis=(1, 2, 3))
            return jnp.mean(per_map), per_map

        return jax.grad(loss, has_aux=True)(params)

    # Thousands of fields are an argument of the program: as a constant in it they would be compiled.
    leaves, structure = jax.tree.flatten(windows)
    arrays = [leaf for leaf in leaves if isinstance(leaf, jax.Array)]

    @jax.jit
    def update(state: _State, arrays: list[jax.Array]) -> tuple[_State, jax.Array, jax.Array]:
        remaining = iter(arrays)
        windows = structure.unflatten([next(remaining) if isinstance(leaf, jax.Array) else leaf for leaf in leaves])
        time_key, pool_key, key = jax.random.split(jax.random.fold_in(jax.random.key(settings.seed), state.step), 3)
        pool = windows.pool(pool_key, settings.pool_size)
        strata = jnp.arange(settings.batch_size)
        t = (strata + jax.random.uniform(time_key, (settings.batch_size,))) / settings.batch_size
        keys = jax.random.split(key, settings.batch_size)
        gradient, per_map = devices.spread_gradient(mean_gradient, mesh)((state.params, pool), keys, t)
        updates, opt_state = optimiser.update(gradient, state.optimiser, state.params)
        params = optax.apply_updates(state.params, updates)
        decay = jnp.minimum(settings.ema_decay, (1.0 + state.step) / (10.0 + state.step))
        ema = jax.tree.map(lambda old, new: decay * old + (1.0 - decay) * new, state.ema, params)
        return _State(params, ema, opt_state, state.step + 1), t, per_map

    history: list[tuple[np.ndarray, np.ndarray]] = []
    started, first = time.monotonic(), int(state.step)
    while int(state.step) < settings.steps:
        state, t, per_map = update(state, arrays)
        history.append((np.asarray(t), np.asarray(per_map)))
        step = int(state.step)
        if not devices.is_first_process():
            history.clear()
            continue
        if step % settings.log_every == 0 or step == settings.steps:
            rate = (time.monotonic() - started) / (step - first)
            _log(folder / "progress.jsonl", step, settings, history, rate, report)
            history.clear()
        if step % settings.checkpoint_every == 0 or step == settings.steps:
            _save(folder / "checkpoint.safetensors", state)
    trained = denoiser.with_params(jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), state.ema))
    return recalibrate(trained, windows, schedule, noise)


def _optimiser(settings: TrainingSettings) -> optax.GradientTransformation:
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


def _log(path, step, settings, history, rate, report) -> None:
    """One line of progress: mean loss and loss per band of diffusion time, a fixed range of log-SNR each."""
    t, loss = (np.concatenate(column) for column in zip(*history, strict=True))
    band = np.minimum((t * NUM_LOSS_BANDS).astype(int), NUM_LOSS_BANDS - 1)
    per_band = [float(loss[band == b].mean()) if (band == b).any() else None for b in range(NUM_LOSS_BANDS)]
    with open(path, "a") as file:
        file.write(json.dumps({"step": step, "loss": float(loss.mean()), "bands": per_band, "s_per_step": rate}) + "\n")
    bands = " ".join("-" if value is None else f"{value:.3f}" for value in per_band)
    remaining = rate * (settings.steps - step) / 60.0
    report(
        f"step {step}/{settings.steps}  loss {loss.mean():.4f}  by log-SNR, high to low: {bands}  "
        f"{rate:.2f} s/step  {remaining:.0f} min left"
    )


def _named(state: _State) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def _save(path: Path, state: _State) -> None:
    partial = path.with_suffix(".partial")
    save_file(_named(state), partial)
    os.replace(partial, path)


def _restore(path: Path, state: _State) -> _State:
    if not path.exists():
        return state
    try:
        with safe_open(path, framework="numpy") as file:
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
    except SafetensorError as error:
        raise ValueError(
            f"the checkpoint {path} is truncated or damaged ({error}); move it away to start afresh"
        ) from error
    expected = _named(state)
    if {k: v.shape for k, v in expected.items()} != {k: v.shape for k, v in stored.items()}:
        raise ValueError(f"the checkpoint {path} belongs to another network or optimiser; move it away to start afresh")
    leaves = [jnp.asarray(stored[name]) for name in expected]
    return jax.tree.unflatten(jax.tree.structure(state), leaves)


def settings_card(settings: TrainingSettings) -> dict[str, Any]:
    """Settings as they stand in a model card."""
    return asdict(settings)
