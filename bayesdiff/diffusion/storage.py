"""Models on disk: ``model.safetensors`` for the arrays and ``card.json`` for everything else.

The card names what the arrays are (denoiser, noise, schedule, shapes), carries their SHA-256, and whatever is known of
training, provenance and measured quality. Both files are written beside and moved into place, so a model is there whole
or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, fields
from importlib import import_module
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from bayesdiff.diffusion import schedules
from bayesdiff.diffusion.denoiser import GaussianDenoiser
from bayesdiff.diffusion.gaussian_family import GaussianFamily
from bayesdiff.diffusion.model import Card, DiffusionModel
from bayesdiff.diffusion.noise import Noise, StationaryNoise, WhiteNoise
from bayesdiff.diffusion.reconstruction import LinearReconstruction

FORMAT = 3
WEIGHTS, CARD = "model.safetensors", "card.json"
_STRUCTURE = ("denoiser", "noise", "schedule", "event_shape", "context_names", "context_bounds", "name")
_FAMILY = ("log_power", "mean", "context_low", "context_high")
_LINEAR = ("log_power", "transfer", "mean", "map_mean")
_TABLES = ("gain", "feedback", "residual_variance")
_POWER_TYPES = {
    "cmb_power": ("bayesdiff.cosmology", "CMBPower"),
    "white_power": ("bayesdiff.cosmology", "WhitePower"),
}


def save_model(model: DiffusionModel, path: Path, entries: dict[str, Any]) -> Path:
    """Write ``model`` into the folder ``path``."""
    tensors: dict[str, np.ndarray] = {}
    structure = {
        "denoiser": _describe_denoiser(model.denoiser, tensors),
        "noise": _describe_noise(model.noise, tensors),
        "schedule": {"type": type(model.schedule).__name__, **asdict(model.schedule)},  # type: ignore[call-overload]
        "event_shape": list(model.event_shape),
        "context_names": list(model.context_names),
        "context_bounds": None if model.context_bounds is None else [list(b) for b in model.context_bounds],
        "name": model.name,
    }
    weights = save_tensors({name: np.asarray(value, order="C") for name, value in tensors.items()})
    reserved = {"format": FORMAT, "weights_sha256": hashlib.sha256(weights).hexdigest(), **structure}
    if taken := sorted(reserved.keys() & entries.keys()):
        raise ValueError(f"the card's entries {taken} describe the model itself and cannot be given")
    card = reserved | {key: value for key, value in (dict(model.card.entries) | entries).items() if key not in reserved}
    path.mkdir(parents=True, exist_ok=True)
    for name, content in ((WEIGHTS, weights), (CARD, json.dumps(card, indent=1).encode())):
        partial = path / (name + ".partial")
        partial.write_bytes(content)
        os.replace(partial, path / name)
    return path


def read_model(path: Path, noise: Noise | None) -> DiffusionModel:
    """Read the folder ``path``; see :func:`bayesdiff.diffusion.model.load_model`."""
    for name in (CARD, WEIGHTS):
        if not (path / name).is_file():
            raise FileNotFoundError(f"a model is a folder with {CARD} and {WEIGHTS}; {path} has no {name}")
    try:
        card = json.loads((path / CARD).read_text())
    except ValueError as error:
        raise ValueError(f"{path / CARD} is not readable as JSON ({error}); the card is damaged") from error
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        found = card.get("format") if isinstance(card, dict) else type(card).__name__
        raise ValueError(f"{path / CARD} must be a model card of format {FORMAT}, got format {found!r}")
    missing = [key for key in (*_STRUCTURE, "weights_sha256") if key not in card]
    if missing:
        raise ValueError(f"{path / CARD} lacks the entries {missing}")
    tensors = read_tensors(path / WEIGHTS, card["weights_sha256"])
    try:
        return _build_model(card, tensors, noise)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path / CARD} does not describe the arrays of {WEIGHTS}: {error!r}") from error


def read_tensors(path: Path, sha256: str) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file whose SHA-256 its card knows.

    Raises:
        ValueError: the file is another one, or not readable.
    """
    weights = path.read_bytes()
    digest = hashlib.sha256(weights).hexdigest()
    if digest != sha256:
        raise ValueError(
            f"{path} is not the file its card describes (truncated, tampered or mismatched): SHA-256 {digest[:12]}... "
            f"where {sha256[:12]}... was expected"
        )
    try:
        return load_tensors(weights)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error


def _build_model(card: dict[str, Any], tensors: dict[str, np.ndarray], noise: Noise | None) -> DiffusionModel:
    bounds = card["context_bounds"]
    return DiffusionModel(
        denoiser=_build_denoiser(card["denoiser"], tensors),
        schedule=_build_schedule(card["schedule"]),
        noise=noise if noise is not None else _build_noise(card["noise"], tensors),
        event_shape=tuple(card["event_shape"]),
        context_names=tuple(card["context_names"]),
        context_bounds=None if bounds is None else tuple((low, high) for low, high in bounds),
        name=card["name"],
        card=Card({key: value for key, value in card.items() if key not in _STRUCTURE}),
    )


def _describe_denoiser(denoiser, tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    if isinstance(denoiser, GaussianDenoiser):
        tensors["power"], tensors["mean"] = np.asarray(denoiser.power), np.asarray(denoiser.mean)
        return {"type": "gaussian"}
    if isinstance(denoiser, GaussianFamily):
        for name in _FAMILY:
            tensors[f"family_{name}"] = np.asarray(getattr(denoiser, name))
        return {"type": "gaussian_family", "shape": list(denoiser.shape), "degree": denoiser.degree}
    if isinstance(denoiser, LinearReconstruction):
        for name in _LINEAR:
            tensors[f"linear_{name}"] = np.asarray(getattr(denoiser, name))
        return {"type": "linear_reconstruction", "shape": list(denoiser.shape)}
    from bayesdiff.networks.varying_spectrum import VaryingSpectrum
    from bayesdiff.networks.wiener import WienerDenoiser

    if not isinstance(denoiser, WienerDenoiser):
        raise ValueError(f"only Gaussian denoisers and WienerDenoiser can be stored, got {type(denoiser).__name__}")
    reference = _describe_denoiser(denoiser.reference, tensors)
    tensors["context_low"], tensors["context_high"] = (
        np.asarray(denoiser.context_low),
        np.asarray(denoiser.context_high),
    )
    for name, value in vars(denoiser.spectra).items():
        tensors[f"spectra_{name}"] = np.asarray(value)
    tensors["table_log_s"] = np.asarray(denoiser.gain.log_s)
    tensors["contrast"] = np.asarray(denoiser.contrast)
    for name in _TABLES:
        tensors[name] = np.asarray(getattr(denoiser, name).values)
    for name, value in _flatten(denoiser.params).items():
        tensors[f"network.{name}"] = np.asarray(value)
    card = {"type": "wiener", "reference": reference, "network": asdict(denoiser.config)}
    card |= {"spectra": "varying"} if isinstance(denoiser.spectra, VaryingSpectrum) else {}
    return card | ({"standardised": True} if denoiser.standardised else {})


def _build_denoiser(card: dict[str, Any], tensors: dict[str, np.ndarray]):
    if card.get("type") == "gaussian":
        return GaussianDenoiser(jnp.asarray(tensors["power"]), jnp.asarray(tensors["mean"]))
    if card.get("type") == "gaussian_family":
        arrays = {name: jnp.asarray(tensors[f"family_{name}"]) for name in _FAMILY}
        return GaussianFamily(**arrays, shape=tuple(card["shape"]), degree=card["degree"])
    if card.get("type") == "linear_reconstruction":
        arrays = {name: jnp.asarray(tensors[f"linear_{name}"]) for name in _LINEAR}
        return LinearReconstruction(**arrays, shape=tuple(card["shape"]))
    if card.get("type") != "wiener":
        raise ValueError(
            "the card's denoiser must be of type 'gaussian', 'gaussian_family', 'linear_reconstruction' or 'wiener', "
            f"got {card.get('type')!r}"
        )
    # Cards written before there were families do not say of which kind the reference is.
    reference = _build_denoiser(card.get("reference", {"type": "gaussian"}), tensors)
    from bayesdiff.networks.band_table import BandTable
    from bayesdiff.networks.unet import UNetConfig
    from bayesdiff.networks.wiener import WienerDenoiser, initialise

    settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in card["network"].items()}
    config = UNetConfig(**settings)
    context_low, context_high = jnp.asarray(tensors["context_low"]), jnp.asarray(tensors["context_high"])
    # Shapes alone: weights that are thrown away need not be drawn.
    expected = _flatten(jax.eval_shape(lambda: initialise(0, reference, config, context_low, context_high).params))
    stored = {name.removeprefix("network."): v for name, v in tensors.items() if name.startswith("network.")}
    shapes = {name: tuple(np.shape(value)) for name, value in expected.items()}
    wrong = [k for k in shapes.keys() | stored.keys() if k not in stored or shapes.get(k) != stored[k].shape]
    if wrong:
        raise ValueError(f"the weights do not fit the network of the card: {sorted(wrong)[:3]} and {len(wrong)} in all")
    return WienerDenoiser(
        reference=reference,
        spectra=_build_spectra(card.get("spectra", "mixture"), tensors),
        params=_unflatten({name: jnp.asarray(value) for name, value in stored.items()}),
        context_low=context_low,
        context_high=context_high,
        **{name: BandTable(jnp.asarray(tensors["table_log_s"]), jnp.asarray(tensors[name])) for name in _TABLES},
        contrast=_build_contrast(tensors),
        config=config,
        standardised=bool(card.get("standardised", False)),
    )


def _build_contrast(tensors: dict[str, np.ndarray]) -> jax.Array:
    from bayesdiff.networks.wiener import contrast_table

    contrast, log_s = jnp.asarray(tensors["contrast"]), jnp.asarray(tensors["table_log_s"])
    # Weights that were written when there was one number for high noise.
    return contrast if contrast.ndim else contrast_table(contrast, log_s)


def _build_spectra(kind: str, tensors: dict[str, np.ndarray]):
    from bayesdiff.networks.spectral_mixture import SpectralMixture
    from bayesdiff.networks.varying_spectrum import VaryingSpectrum

    kinds: dict[str, Any] = {"mixture": SpectralMixture, "varying": VaryingSpectrum}
    if kind not in kinds:
        raise ValueError(f"the card's spectra must be one of {', '.join(kinds)}, got {kind!r}")
    names = (field.name for field in fields(kinds[kind]))
    return kinds[kind](**{name: jnp.asarray(tensors[f"spectra_{name}"]) for name in names})


def _build_schedule(card: dict[str, Any]):
    settings = dict(card)
    kind = settings.pop("type", None)
    known = ("VPLinear", "Cosine", "Sigmoid", "EDM", "LearnedLinear")
    if kind not in known:
        raise ValueError(f"the card's schedule must be one of {known}, got {kind!r}")
    return getattr(schedules, kind)(**settings)


def _describe_noise(noise: Noise, tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    if isinstance(noise, WhiteNoise):
        return {"type": "white"}
    if not isinstance(noise, StationaryNoise):
        raise ValueError(f"only WhiteNoise and StationaryNoise can be stored, got {type(noise).__name__}")
    components: dict[str, Any] = {}
    for name, power in noise.components.items():
        if not callable(power):
            tensors[f"noise.{name}"] = np.asarray(power)
            components[name] = {"type": "array"}
        elif hasattr(power, "to_card"):
            components[name] = power.to_card()
        else:
            components[name] = {"type": "function"}
    return {"type": "stationary", "isotropic": noise.isotropic, "components": components}


def _build_noise(card: dict[str, Any], tensors: dict[str, np.ndarray]) -> Noise:
    if card.get("type") == "white":
        return WhiteNoise()
    powers: dict[str, Any] = {}
    for name, component in card["components"].items():
        kind = component["type"]
        if kind == "array":
            powers[name] = tensors[f"noise.{name}"]
        elif kind in _POWER_TYPES:
            module, attribute = _POWER_TYPES[kind]
            powers[name] = getattr(import_module(module), attribute).from_card(component)
        else:
            raise ValueError(f"the power of {name!r} is a function that was not stored; give noise= to load_model")
    return StationaryNoise(powers, isotropic=card["isotropic"])


def _flatten(tree, prefix: str = "") -> dict[str, Any]:
    """Nested dicts of arrays as one dict with dotted names; integer keys are list positions."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {
        k: v for key, sub in tree.items() for k, v in _flatten(sub, f"{prefix}.{key}" if prefix else str(key)).items()
    }


def _unflatten(flat: dict[str, Any]) -> dict:
    tree: dict = {}
    for name, value in flat.items():
        *path, last = (int(part) if part.isdigit() else part for part in name.split("."))
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    return tree
