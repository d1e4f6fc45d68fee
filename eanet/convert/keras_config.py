"""What the config of a saved Keras model tells of its images; it is read as JSON, never built."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from eanet.errors import UserError

# Keras divides by no smaller deviation.
_LEAST_DEVIATION = 1e-7

Layers = list[tuple[str, dict[str, Any]]]
Statistics = tuple[np.ndarray, np.ndarray]


def layers(config: bytes | str) -> Layers:
    """Class and options of every layer, inner ones in their place; none where it is no config."""
    try:
        return list(_layers(json.loads(config)))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []


def _layers(model: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    for layer in model["config"]["layers"]:
        if "layers" in layer["config"]:
            yield from _layers(layer)
        else:
            yield str(layer["class_name"]), dict(layer["config"])


def image_shape(found: Layers) -> tuple[int, int, int] | None:
    """Height, width and channels of the first input layer, where one states them."""
    options = next((options for kind, options in found if kind == "InputLayer"), {})
    shape = options.get("batch_shape") or options.get("batch_input_shape")
    if not isinstance(shape, list) or len(shape) != 4:
        return None
    sizes = shape[1], shape[2], shape[3]
    return sizes if all(type(size) is int and size > 0 for size in sizes) else None


def statistics(source: str, found: Layers, adapted: Statistics | None) -> Statistics | None:
    """Mean and deviation by which the model's layers normalise pixels from 0 to 255.

    Each is `float64[C]`, or of one value for all channels where they are not counted; None where no
    layer normalises. `adapted` are mean and variance that a layer has among its weights.

    Raises:
      UserError: the layers do not say by what, or turn light into dark.
    """
    kinds = [(kind, x) for kind, x in found if kind in ("Rescaling", "Normalization")]
    if adapted is not None and "Normalization" not in dict(kinds):
        kinds.append(("Normalization", {}))  # its weights alone tell of it
    scale, offset = np.ones(1), np.zeros(1)
    for kind, options in kinds:
        try:
            factor, added = _affine(kind, options, adapted)
            scale, offset = scale * factor, offset * factor + added
        except (KeyError, TypeError, ValueError, OverflowError):
            raise UserError(
                f"{source}: its layer {kind} does not say by which numbers it normalises images"
            ) from None
    if not kinds:
        return None
    shape = image_shape(found)
    if shape and {scale.size, offset.size} <= {1, shape[2]}:
        scale, offset = (np.broadcast_to(values, shape[2]) for values in (scale, offset))
    with np.errstate(all="ignore"):
        mean, std = -offset / scale, 1 / scale
    if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std > 0).all()):
        raise UserError(f"{source}: its layers scale images by {scale}, which is no normalisation")
    return mean, std


def _affine(kind: str, options: dict[str, Any], adapted: Statistics | None) -> Statistics:
    """Factor and summand of one layer."""
    if kind == "Rescaling":
        return _numbers(options["scale"]), _numbers(options.get("offset", 0.0))
    known = options.get("mean") is not None
    mean, variance = map(
        _numbers, (options["mean"], options["variance"]) if known else adapted or ()
    )
    if (variance < 0).any():
        raise ValueError("variance")
    deviation = np.maximum(np.sqrt(variance), _LEAST_DEVIATION)
    return (deviation, mean) if options.get("invert") else (1 / deviation, -mean / deviation)


def _numbers(values: Any) -> np.ndarray:
    return np.asarray(values, np.float64).reshape(-1)
