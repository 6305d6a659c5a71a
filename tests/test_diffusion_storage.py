"""Models on disk: what is written comes back, and what is not whole is refused with a sentence that says why."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bayesdiff.cosmology import dust_cmb_noise_components
from bayesdiff.diffusion.denoiser import GaussianDenoiser
from bayesdiff.diffusion.model import DiffusionModel, load_model
from bayesdiff.diffusion.noise import StationaryNoise, WhiteNoise
from bayesdiff.diffusion.schedules import EDM, Cosine, LearnedLinear, Sigmoid, VPLinear
from bayesdiff.networks.unet import UNetConfig
from bayesdiff.networks.wiener import initialise
from bayesdiff.recalibration import with_contrast
from tests.diffusion_toys import Opaque, even_power, red_power, twin_model

SIZE = 16
NETWORK = UNetConfig(3, 1, channels=(8, 8), blocks=(1, 1), embedding=8, attention=False, seam=True)


def gaussian_model() -> DiffusionModel:
    """Gaussian field in noise of array power, two channels."""
    denoiser = GaussianDenoiser(even_power(0, (2, SIZE, SIZE)).astype(np.float32), np.float32(0.4))
    noise = StationaryNoise({"sky": even_power(1, (SIZE, SIZE)).astype(np.float32)}, isotropic=False)
    return DiffusionModel(denoiser, EDM(0.01, 50.0), noise, (2, SIZE, SIZE), name="dust")


def wiener_model() -> DiffusionModel:
    """Network with random parameters in CMB and instrument noise and a floor of array power."""
    reference = GaussianDenoiser(red_power(SIZE).astype(np.float32), 0.2)
    denoiser = initialise(0, reference, NETWORK, (50.0, 0.0075), (90.0, 0.0567))
    leaves, structure = jax.tree.flatten(denoiser.params)
    rng = np.random.default_rng(2)
    leaves = [leaf + jnp.asarray(0.1 * rng.normal(size=leaf.shape), leaf.dtype) for leaf in leaves]
    denoiser = with_contrast(denoiser.with_params(jax.tree.unflatten(structure, leaves)), 1.1)
    components = dust_cmb_noise_components((SIZE, SIZE), 8.0) | {"floor": 0.01 * np.ones((SIZE, SIZE), np.float32)}
    noise = StationaryNoise(components, isotropic=True)
    return DiffusionModel(denoiser, Cosine(10.0), noise, (1, SIZE, SIZE), ("H0", "omega_b"), name="dust")


@pytest.fixture
def saved(tmp_path):
    return gaussian_model().save(tmp_path / "model")


def standardised_model() -> DiffusionModel:
    """The same for fields of known norm."""
    model = wiener_model()
    return replace(model, denoiser=replace(model.denoiser, standardised=True))


@pytest.mark.parametrize(
    ("make", "context"),
    [(gaussian_model, ()), (wiener_model, (67.0, 0.02)), (standardised_model, (67.0, 0.02))],
    ids=["gaussian", "wiener", "standardised"],
)
def test_round_trip(make, context, tmp_path):
    model = make()
    path = model.save(tmp_path / "model", provenance="a test", quality={"loss": 0.5})
    loaded = load_model(path)
    assert sorted(file.name for file in path.iterdir()) == ["card.json", "model.safetensors"]
    assert loaded.fingerprint() == model.fingerprint()
    for name in ("schedule", "event_shape", "context_names", "context_bounds", "name"):
        assert getattr(loaded, name) == getattr(model, name)
    assert list(loaded.noise.components) == list(model.noise.components)
    assert loaded.noise.isotropic == model.noise.isotropic
    assert loaded.card.entries["provenance"] == "a test"
    assert loaded.card.entries["quality"] == {"loss": 0.5}
    z = jax.random.normal(jax.random.key(0), model.event_shape)
    np.testing.assert_array_equal(loaded.denoise(z, 0.4, context), model.denoise(z, 0.4, context))


def test_one_number_for_the_contrast_of_draws_is_read_as_that_of_high_noise(tmp_path):
    path = wiener_model().save(tmp_path / "model")
    tensors = load_file(path / "model.safetensors")
    save_file(tensors | {"contrast": np.array(1.1, np.float32)}, path / "model.safetensors")
    card = json.loads((path / "card.json").read_text())
    card["weights_sha256"] = hashlib.sha256((path / "model.safetensors").read_bytes()).hexdigest()
    (path / "card.json").write_text(json.dumps(card))
    np.testing.assert_allclose(load_model(path).denoiser.contrast, wiener_model().denoiser.contrast, rtol=1e-6)


def test_bounds_of_the_noise_become_those_of_the_model():
    assert wiener_model().context_bounds == ((50.0, 90.0), (0.0075, 0.0567))


@pytest.mark.parametrize(
    "schedule", [VPLinear(0.2, 15.0), Cosine(), Sigmoid(end=4.0), LearnedLinear(-10.0, 8.0)], ids=repr
)
def test_schedules_come_back(schedule, tmp_path):
    model = DiffusionModel(GaussianDenoiser(red_power(4)), schedule, WhiteNoise(), (1, 4, 4))
    assert load_model(model.save(tmp_path)).schedule == schedule


def test_a_changed_model_can_be_saved_again(saved, tmp_path):
    """The card of the old arrays must not follow the new ones."""
    loaded = load_model(saved)
    louder = replace(loaded, denoiser=GaussianDenoiser(2.0 * loaded.denoiser.power))
    again = load_model(louder.save(tmp_path / "again"))
    np.testing.assert_array_equal(again.denoiser.power, 2.0 * loaded.denoiser.power)
    assert again.fingerprint() != loaded.fingerprint()


def test_entries_cannot_replace_the_description(tmp_path):
    with pytest.raises(ValueError, match=r"entries \['schedule'\] describe the model itself"):
        gaussian_model().save(tmp_path, schedule="mine")


def test_missing_files(saved, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere has no card\.json"):
        load_model(tmp_path / "nowhere")
    (saved / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no model\.safetensors"):
        load_model(saved)
    (saved / "card.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no card\.json"):
        load_model(saved)


def truncate(content: bytes) -> bytes:
    return content[: len(content) // 2]


def tamper(content: bytes) -> bytes:
    return content[:-7] + bytes([content[-7] ^ 1]) + content[-6:]


@pytest.mark.parametrize("damage", [truncate, tamper, lambda content: b""], ids=["truncated", "tampered", "empty"])
def test_damaged_weights_are_refused(saved, damage):
    file = saved / "model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(
        ValueError, match=r"is not the file its card describes \(truncated, tampered or mismatched\): SHA-256"
    ):
        load_model(saved)


def test_weights_of_another_model_are_refused(saved, tmp_path):
    other = wiener_model().save(tmp_path / "other")
    (saved / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    with pytest.raises(ValueError, match="is not the file its card describes"):
        load_model(saved)


def rewrite(folder, **changes) -> None:
    """Change entries of a card, keeping its SHA-256 that of the weights beside it."""
    import hashlib

    card = json.loads((folder / "card.json").read_text())
    card["weights_sha256"] = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    card |= changes
    (folder / "card.json").write_text(json.dumps({key: value for key, value in card.items() if value is not ...}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights_sha256": "0" * 64}, "where 000000000000... was expected"),
        ({"format": 99}, "must be a model card of format 3, got format 99"),
        ({"noise": ...}, r"lacks the entries \['noise'\]"),
        ({"schedule": {"type": "Quadratic"}}, "schedule must be one of .* got 'Quadratic'"),
        ({"schedule": {"type": "Cosine", "speed": 3}}, "does not describe the arrays .*'speed'"),
        (
            {"denoiser": {"type": "transformer"}},
            "must be of type 'gaussian', .* or 'wiener', got 'transformer'",
        ),
        ({"denoiser": {"type": "wiener"}}, "does not describe the arrays .*'network'"),
        ({"event_shape": [1, 8, 8]}, r"power of the denoiser is given on \(16, 16\) modes"),
        ({"noise": {"type": "stationary", "components": {"cmb": {"type": "array"}}, "isotropic": True}}, "noise.cmb"),
    ],
    ids=["hash", "format", "lacking", "schedule", "settings", "denoiser", "network", "shape", "noise"],
)
def test_cards_that_describe_something_else_are_refused(saved, changes, message):
    rewrite(saved, **changes)
    with pytest.raises(ValueError, match=message):
        load_model(saved)


@pytest.mark.parametrize("content", ["{", "[]", "\x00\xff"], ids=["cut", "list", "binary"])
def test_unreadable_cards_are_refused(saved, content):
    (saved / "card.json").write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=r"card\.json"):
        load_model(saved)


def test_weights_that_do_not_fit_the_network_are_refused(tmp_path):
    path = wiener_model().save(tmp_path)
    tensors = load_file(path / "model.safetensors")
    name = next(name for name in tensors if name.startswith("network.stem"))
    save_file(tensors | {name: tensors[name][..., :-1].copy()}, path / "model.safetensors")
    rewrite(path)
    with pytest.raises(ValueError, match=r"weights do not fit the network of the card: \['stem.* 1 in all"):
        load_model(path)
    save_file({key: value for key, value in tensors.items() if key != name}, path / "model.safetensors")
    rewrite(path)
    with pytest.raises(ValueError, match="weights do not fit the network of the card"):
        load_model(path)


def test_noise_that_is_a_function_must_be_given(tmp_path):
    model = twin_model(8)
    path = model.save(tmp_path)
    with pytest.raises(
        ValueError, match="the power of 'noise' is a function that was not stored; give noise= to load_model"
    ):
        load_model(path)
    loaded = load_model(path, noise=model.noise)
    context = model.context_array((1.0, 0.0))
    np.testing.assert_array_equal(loaded.noise_power(context), model.noise_power(context))


def test_what_cannot_be_stored_is_refused(tmp_path):
    model = DiffusionModel(Opaque(GaussianDenoiser(red_power(4))), VPLinear(), WhiteNoise(), (1, 4, 4))
    with pytest.raises(ValueError, match="only Gaussian denoisers and WienerDenoiser can be stored, got Opaque"):
        model.save(tmp_path)
