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
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayesdiff import devices
from bayesdiff.diffusion.fourier import filter_field
from bayesdiff.diffusion.noise import Noise
from bayesdiff.diffusion.schedules import Schedule
from bayesdiff.examples import draw_example
from bayesdiff.networks.wiener import WienerDenoiser
from bayesdiff.recalibration import recalibrate
from bayesdiff.training_loop import TrainingSettings, TrainingState, advance, restore_or_start, run_steps
from bayesdiff.windows import TrainingFields, TrainingPool

NUM_LOSS_BANDS = 8


def train(
    windows: TrainingFields,
    denoiser: WienerDenoiser,
    schedule: Schedule,
    noise: Noise,
    settings: TrainingSettings = TrainingSettings(),  # noqa: B008 (frozen)
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
    state = restore_or_start(denoiser.params, settings, folder)
    mesh = devices.mesh_for(settings.batch_size)
    if mesh is not None:
        state = devices.place(state, mesh)

    def mean_gradient(shared: tuple[Any, TrainingPool], keys: jax.Array, t: jax.Array) -> tuple[Any, jax.Array]:
        """Gradient of the mean loss of some maps, and the loss of each."""
        params, pool = shared
        examples = jax.vmap(lambda k, t: draw_example(k, t, pool, denoiser, schedule, noise, settings.spots))(keys, t)

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
    def update(state: TrainingState, arrays: list[jax.Array]) -> tuple[TrainingState, tuple[jax.Array, jax.Array]]:
        remaining = iter(arrays)
        windows = structure.unflatten([next(remaining) if isinstance(leaf, jax.Array) else leaf for leaf in leaves])
        time_key, pool_key, key = jax.random.split(jax.random.fold_in(jax.random.key(settings.seed), state.step), 3)
        pool = windows.pool(pool_key, settings.pool_size)
        strata = jnp.arange(settings.batch_size)
        t = (strata + jax.random.uniform(time_key, (settings.batch_size,))) / settings.batch_size
        keys = jax.random.split(key, settings.batch_size)
        gradient, per_map = devices.spread_gradient(mean_gradient, mesh)((state.params, pool), keys, t)
        return advance(state, gradient, settings), (t, per_map)

    log = partial(_log, folder / "progress.jsonl", settings, report)
    state = run_steps(lambda state: update(state, arrays), state, settings, folder, log)
    trained = denoiser.with_params(jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), state.ema))
    return recalibrate(trained, windows, schedule, noise)


def _log(path, settings, report, step, history, rate) -> None:
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


def settings_card(settings: TrainingSettings) -> dict[str, Any]:
    """Settings as they stand in a model card."""
    return asdict(settings)
