"""Positions as vectors."""

import jax.numpy as jnp
import numpy as np

from bayesdiff.sampling.layout import Layout


def test_sites_of_any_shape_stand_in_the_vector_by_name():
    position = {"x": jnp.arange(6.0).reshape(2, 3), "a": jnp.asarray(-1.0), "m": jnp.array([7.0, 8.0])}
    layout = Layout.of({"x": (2, 3), "a": (), "m": (2,)})
    vector = layout.flatten(position)
    np.testing.assert_array_equal(vector, [-1, 7, 8, 0, 1, 2, 3, 4, 5])
    back = layout.unflatten(vector)
    assert {name: x.shape for name, x in back.items()} == {"x": (2, 3), "a": (), "m": (2,)}
    for name, x in position.items():
        np.testing.assert_array_equal(back[name], x)


def test_the_layout_does_not_depend_on_the_order_of_the_sites():
    assert Layout.of({"b": (2,), "a": ()}) == Layout.of({"a": (), "b": (2,)})
