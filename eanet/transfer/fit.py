"""Weights of one model as the start of another, tensor by tensor."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from eanet.checkpoints import storage
from eanet.errors import UserError
from eanet.transfer.units import Memory, merge
from eanet.transfer.weights import Weights

_POSITIONS = "patch_embed/position_embedding"
# The memory of external attention in all blocks, and which axis counts its units.
UNIT_AXIS = {
    "blocks/attention/key_memory": 2,
    "blocks/attention/key_memory_bias": 1,
    "blocks/attention/value_memory": 1,
}


@dataclass(frozen=True)
class Row:
    """What became of a tensor."""

    name: str
    there: tuple[int, ...] | None  # its shape in the weights, None where they have none
    here: tuple[int, ...] | None  # and in the model
    outcome: str


def fit(
    weights: Weights,
    initial: Any,
    *,
    grid: tuple[int, int],
    model: Mapping[str, Any],
    class_names: tuple[str, ...],
) -> tuple[Any, list[Row]]:
    """Parameters of the form of `initial`, with all that the weights have for it.

    Tensors of equal name and shape are taken. Blocks and memory units are taken from the first on;
    those that the model has more stay as they are in `initial`. Where it has fewer units, the
    nearest are merged. The embedding of the places is interpolated (bicubic) where the grid of
    tokens is another one. The head is taken class by class, by their names, or as it is where the
    weights have none. A module of the stem stays as in `initial` where one of its tensors has
    another shape.

    Args:
      weights: as they were read.
      initial: a nested dict of arrays, the model's own start.
      grid: rows and columns of the model's tokens.
      model: its options, the section `model` of a config.
      class_names: of its logits.

    Returns:
      The parameters, and a row for every tensor of either side.

    Raises:
      UserError: a tensor has another shape for another reason.
    """
    there, here = (storage.named(tree) for tree in (weights.params, initial))
    merged = _merged_units(weights, model, there)
    # A bias belongs to its kernel: neither is of use beside the other's successor.
    other_stem = {
        _module(name)
        for name, start in here.items()
        if _module(name).startswith("patch_embed/")
        and _shape(there, name) not in (None, start.shape)
    }
    params, rows = {}, []
    for name, start in here.items():
        start = np.asarray(start)
        if name not in there:
            value, outcome = start, "new: the weights have none"
        elif name.startswith("head/"):
            value, outcome = _by_class(weights.class_names, class_names, there[name], start)
        elif _module(name) in other_stem:
            value, outcome = start, "new: other patches or channels"
        elif there[name].shape == start.shape and not (name == _POSITIONS and grid != weights.grid):
            value, outcome = there[name], "taken"
        elif name == _POSITIONS and there[name].shape[1] == start.shape[1]:
            value = _resized(there[name], weights.grid, grid)
            outcome = f"interpolated from {_by(weights.grid)} to {_by(grid)} tokens"
        else:
            value, outcome = _by_part(weights, model, name, there[name], start, merged.get(name))
        params[name] = value.astype(start.dtype)
        rows.append(Row(name, _shape(there, name), start.shape, outcome))
    rows += [Row(name, there[name].shape, None, "left") for name in there if name not in here]
    return jax.tree.unflatten(jax.tree.structure(initial), list(params.values())), rows


def _by_class(
    names: tuple[str, ...], wanted: tuple[str, ...], value: np.ndarray, start: np.ndarray
) -> tuple[np.ndarray, str]:
    """Of the head, whose last axis is the classes, those of `value` that are wanted."""
    if not names and value.shape == start.shape:
        return value, "taken in their order: the weights do not name their classes"
    if names == wanted:
        return value, "taken"
    place = {name: index for index, name in enumerate(names)}
    here = [index for index, name in enumerate(wanted) if name in place]
    if not here:
        return start, "new: other classes"
    result = start.copy()
    result[..., here] = value[..., [place[wanted[index]] for index in here]]
    new, left = len(wanted) - len(here), len(names) - len(here)
    counts = [f"{len(here)} of {len(wanted)} classes, by name"]
    counts += [f"{count} {what}" for count, what in ((new, "new"), (left, "left")) if count]
    return result, f"taken: {', '.join(counts)}"


def _units(options: Mapping[str, Any]) -> int:
    """Memory units of external attention, 0 of any other."""
    external = options.get("attention", "external") == "external"
    return options.get("memory_size", 0) if external else 0


def _merged_units(
    weights: Weights, model: Mapping[str, Any], there: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The memories of all blocks with the units that the model has, where these are fewer."""
    if not 0 < _units(model) < _units(weights.model):
        return {}
    groups = model.get("norm_groups", 1)
    if weights.model.get("norm_groups", 1) != groups:
        groups = 1  # what was one group will not be one
    blocks = [
        merge(Memory(*block), _units(model), model.get("norm", "double"), groups)
        for block in zip(*(there[name] for name in UNIT_AXIS), strict=True)
    ]
    return dict(zip(UNIT_AXIS, map(np.stack, zip(*blocks, strict=True)), strict=True))


def _by_part(
    weights: Weights,
    model: Mapping[str, Any],
    name: str,
    value: np.ndarray,
    start: np.ndarray,
    merged: np.ndarray | None,
) -> tuple[np.ndarray, str]:
    """The first blocks and memory units of `value`, and what `start` has beyond them.

    Where units were `merged`, those are what is taken.
    """
    units = _units(weights.model), _units(model)
    corner, parts = [], []
    for axis, (there, here) in enumerate(zip(value.shape, start.shape, strict=False)):
        corner.append(slice(min(there, here)))
        if there == here:
            continue
        if axis == 0 and name.startswith("blocks/"):
            parts.append(_part(there, here, "blocks"))
        elif axis == UNIT_AXIS.get(name) and (there, here) == units:
            fewer = f"{there} units merged into {here}"
            parts.append(_part(there, here, "units") if merged is None else fewer)
        else:
            raise UserError(_refusal(weights, model, name, value, start))
    if value.ndim != start.ndim:
        raise UserError(_refusal(weights, model, name, value, start))
    result = start.copy()
    result[tuple(corner)] = (value if merged is None else merged)[tuple(corner)]
    return result, f"taken: {'; '.join(parts)}"


def _part(there: int, here: int, what: str) -> str:
    if there > here:
        return f"the first {here} of {there} {what}, {there - here} left"
    return f"{there} {what}, {here - there} new"


def _refusal(
    weights: Weights, model: Mapping[str, Any], name: str, value: np.ndarray, start: np.ndarray
) -> str:
    different = [
        f"model.{key} is {there!r} there, {model[key]!r} here"
        for key, there in weights.model.items()
        if key in model and model[key] != there
    ]
    return (
        f"init_from={weights.source}: {name} is {_by(value.shape)} there, {_by(start.shape)} here"
        f" ({'; '.join(different) or 'the models have the same options'}); only depth, "
        "memory_size, patches and classes may be others"
    )


def _module(name: str) -> str:
    return name.rpartition("/")[0]


def _by(sizes: Sequence[int]) -> str:
    return "×".join(map(str, sizes))


def _shape(tensors: Mapping[str, Any], name: str) -> tuple[int, ...] | None:
    return tensors[name].shape if name in tensors else None


def _resized(value: np.ndarray, old: tuple[int, int], new: tuple[int, int]) -> np.ndarray:
    """Embeddings `[N, d]` of a grid of places for another grid over the same image."""
    width = value.shape[1]
    resized = jax.image.resize(value.reshape(*old, width), (*new, width), "bicubic")
    return np.asarray(resized).reshape(-1, width)
