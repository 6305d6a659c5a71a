"""Training examples cut from maps: windows at random, and pools of windows that share what they know.

The regression target of a denoiser, x given y = x + s Sigma^(1/2) n, is one window, and at high noise that says next to
nothing of the mean E[x | y] which is to be learned. A pool of n windows says more: the mean of the pool weighted by
N(y; x_i, s^2 Sigma). If y was made from one of the pool, chosen at random, its expectation given y is E[x | y] exactly,
whatever n, because choosing again among the pool by these weights leaves p(x | y) invariant (iterated sampling
importance resampling; Andrieu, Lee & Vihola 2018, arXiv:1312.6432); its variance is the smaller the more windows are
plausible. Xu et al. (2023, arXiv:2302.00670) found the same target by another way.

Windows of strong contrast are rare, and much of a heavy-tailed map's power and all of its skewness are in them. They
are chosen more often, and weigh less in the loss, so that the minimum of the loss is where it was.

Imports only jax.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bayesdiff.diffusion.fourier import mode_power

LARGEST_WEIGHT = 4.0


class MapWindows(NamedTuple):
    """Training maps from which windows are cut at random.

    Attributes:
        maps: fields of equal shape, (num_maps, C, rows, columns).
        size: side of a window in pixels.
        periodic: whether a window may wrap around in rows and in columns.
        standardised: whether every window is brought to mean 0 and standard deviation 1 by itself.
    """

    maps: jax.Array
    size: int
    periodic: tuple[bool, bool] = (True, True)
    standardised: bool = False

    def draw(self, key: jax.Array) -> jax.Array:
        """One window (C, size, size): random map, shift, flip and quarter turns."""
        which, row, column, turn, flip = jax.random.split(key, 5)
        rows, columns = self.maps.shape[-2:]
        if self.size > min(rows, columns):
            raise ValueError(f"a window of {self.size} pixels does not fit in maps of {rows} x {columns} pixels")
        first_row = jax.random.randint(row, (), 0, rows if self.periodic[0] else rows - self.size + 1)
        first_column = jax.random.randint(column, (), 0, columns if self.periodic[1] else columns - self.size + 1)
        field = self.maps[jax.random.randint(which, (), 0, self.maps.shape[0])]
        field = jnp.take(field, (first_row + jnp.arange(self.size)) % rows, axis=-2)
        field = jnp.take(field, (first_column + jnp.arange(self.size)) % columns, axis=-1)
        if self.standardised:
            field = (field - jnp.mean(field)) / jnp.std(field)
        return _turned(turn, flip, field)

    def pool(self, key: jax.Array, num: int) -> WindowPool:
        """Windows of one training step."""
        return draw_pool(key, self, num)

    def statistics(self, num: int = 4096, seed: int = 0) -> tuple[jax.Array, jax.Array]:
        """Mean, shape (C, 1, 1), and power per mode about it, shape (C, H, W), of random windows.

        ``num``, a multiple of 128, windows are drawn. The power is averaged over the symmetries of the square, which
        the augmentation imposes.
        """

        def batch(total, key):
            fields = jax.vmap(self.draw)(jax.random.split(key, 128))
            return total + jnp.mean(mode_power(fields), axis=0), jnp.mean(fields, axis=(0, 2, 3))

        zero = jnp.zeros((self.maps.shape[1], self.size, self.size))
        total, means = jax.lax.scan(batch, zero, jax.random.split(jax.random.key(seed), num // 128))
        mean, power = jnp.mean(means, axis=0), total / (num // 128)
        power = power.at[:, 0, 0].add(-(mean**2) * self.size**2)
        flipped = jnp.roll(power[..., ::-1], 1, axis=-1)
        power = 0.5 * (power + flipped)
        return mean[:, None, None], 0.5 * (power + jnp.swapaxes(power, -1, -2))


class WithDraws(NamedTuple):
    """Training maps, and draws of a prior that was trained on them, together in every pool.

    A denoiser that never sees its own draws takes what they have of its errors for noise: it is to know E[x | y] for
    fields of the prior as well (sampling drift; Daras et al. 2023, arXiv:2302.09057).

    Attributes:
        maps: what the prior is to be of.
        draws: whole draws, as maps of the size of a window.
        share: of the draws.
    """

    maps: MapWindows
    draws: MapWindows
    share: float = 0.25

    def pool(self, key: jax.Array, num: int) -> WindowPool:
        """Windows of one training step.

        Raises:
            ValueError: the pool would have no windows of the maps, or none of the draws.
        """
        key_maps, key_draws = jax.random.split(key)
        own = round(num * self.share)
        if not 0 < own < num:
            raise ValueError(f"share must leave maps and draws in a pool of {num}, got {self.share:g}")
        pools = (self.maps.pool(key_maps, num - own), self.draws.pool(key_draws, own))
        shares = ((num - own) / num, own / num)
        return WindowPool(
            jnp.concatenate([pool.fields for pool in pools]),
            jnp.concatenate([pool.modes for pool in pools]),
            jnp.concatenate([share * pool.probability for share, pool in zip(shares, pools, strict=True)]),
        )


class Choice(NamedTuple):
    """A training field.

    Attributes:
        field: (C, H, W).
        importance: one over how much more often than others it is chosen.
        context: that it was simulated at, (num_context,), or the maps that belong to it, (maps, H, W), or None.
    """

    field: jax.Array
    importance: jax.Array
    context: jax.Array | None


class LabelledFields(NamedTuple):
    """Whole periodic training fields, each with the context that it was simulated at: for conditional priors.

    Fields of different contexts share no law, so their targets are not averaged.

    Attributes:
        fields: (N, C, H, W).
        contexts: (N, num_context).
    """

    fields: jax.Array
    contexts: jax.Array

    def pool(self, key: jax.Array, num: int) -> LabelledFields:
        """Fields of one training step: all of them."""
        del key, num
        return self

    def choose(self, key: jax.Array) -> Choice:
        """A random field under a random shift, flip and quarter turn."""
        which, motion = _split_choice(key)
        index = jax.random.randint(which, (), 0, len(self.fields))
        return Choice(_moved(motion, self.fields[index]), jnp.ones(()), self.contexts[index])

    def expectation(self, x: jax.Array, y: jax.Array, s: jax.Array, noise_power: jax.Array) -> jax.Array:
        """The target for a field: itself."""
        del y, s, noise_power
        return x


class PairedFields(NamedTuple):
    """Whole periodic training fields, each with maps of the same sky: for priors that are conditional on maps.

    Attributes:
        fields: (N, C, H, W).
        maps: (N, maps, H, W).
    """

    fields: jax.Array
    maps: jax.Array

    def pool(self, key: jax.Array, num: int) -> PairedFields:
        """Fields of one training step: all of them."""
        del key, num
        return self

    def choose(self, key: jax.Array) -> Choice:
        """A random field with its maps, all under one random shift, flip and quarter turn."""
        which, motion = _split_choice(key)
        index = jax.random.randint(which, (), 0, len(self.fields))
        pair = _moved(motion, jnp.concatenate([self.fields[index], self.maps[index]]))
        channels = self.fields.shape[1]
        return Choice(pair[:channels], jnp.ones(()), pair[channels:])

    def expectation(self, x: jax.Array, y: jax.Array, s: jax.Array, noise_power: jax.Array) -> jax.Array:
        """The target for a field: itself."""
        del y, s, noise_power
        return x


class WindowPool(NamedTuple):
    """Windows of one training step.

    Attributes:
        fields: (n, C, size, size).
        modes: their orthonormal Fourier transforms.
        probability: of each to be chosen, (n,).
    """

    fields: jax.Array
    modes: jax.Array
    probability: jax.Array

    def choose(self, key: jax.Array) -> Choice:
        """A window (C, size, size)."""
        index = jax.random.choice(key, len(self.probability), p=self.probability)
        return Choice(self.fields[index], 1.0 / (len(self.probability) * self.probability[index]), None)

    def expectation(self, x: jax.Array, y: jax.Array, s: jax.Array, noise_power: jax.Array) -> jax.Array:
        """The target for a window x of the pool: :meth:`posterior_mean`."""
        del x
        return self.posterior_mean(y, s, noise_power)

    def posterior_mean(self, y: jax.Array, s: jax.Array, noise_power: jax.Array) -> jax.Array:
        """Mean of the pool weighted by N(y; x_i, s^2 Sigma), a field (C, size, size).

        Args:
            y: x + s Sigma^(1/2) n with x of the pool, (C, size, size).
            s: noise level.
            noise_power: of Sigma, (C, size, size) or (size, size).
        """
        precision = jnp.broadcast_to(1.0 / (s**2 * noise_power), y.shape)
        # |F(y - x)|^2 without |Fy|^2, which all windows share: products of matrices, not a transform per window.
        overlap = jnp.tensordot(self.modes, precision * jnp.conj(jnp.fft.fft2(y, norm="ortho")), axes=3).real
        power = jnp.tensordot(jnp.abs(self.modes) ** 2, precision, axes=3)
        return jnp.tensordot(jax.nn.softmax(overlap - 0.5 * power), self.fields, axes=1)


TrainingFields = MapWindows | WithDraws | LabelledFields | PairedFields
"""What a prior can be trained on."""
TrainingPool = WindowPool | LabelledFields | PairedFields
"""What the fields of one training step are chosen from."""


def draw_pool(key: jax.Array, windows: MapWindows, num: int) -> WindowPool:
    """``num`` windows, each to be chosen with probability proportional to its standard deviation, within bounds."""
    fields = jax.vmap(windows.draw)(jax.random.split(key, num))
    contrast = jnp.std(fields, axis=(1, 2, 3))
    contrast = jnp.maximum(contrast, jnp.mean(contrast) / LARGEST_WEIGHT)
    return WindowPool(fields, jnp.fft.fft2(fields, norm="ortho"), contrast / jnp.sum(contrast))


def _split_choice(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Keys of which field and of how it is moved."""
    keys = jax.random.split(key, 5)
    return keys[0], keys[1:]


def _moved(keys: jax.Array, field: jax.Array) -> jax.Array:
    """A periodic field (C, N, N) under a random shift, flip and quarter turn."""
    row, column, turn, flip = keys
    for axis, key in ((-2, row), (-1, column)):
        field = jnp.roll(field, jax.random.randint(key, (), 0, field.shape[axis]), axis=axis)
    return _turned(turn, flip, field)


def _turned(turn: jax.Array, flip: jax.Array, field: jax.Array) -> jax.Array:
    """A field (C, N, N) under random quarter turns and a random flip."""
    turns = [lambda x, k=k: jnp.rot90(x, k, axes=(-2, -1)) for k in range(4)]
    field = jax.lax.switch(jax.random.randint(turn, (), 0, 4), turns, field)
    return jnp.where(jax.random.bernoulli(flip), field[..., ::-1], field)
