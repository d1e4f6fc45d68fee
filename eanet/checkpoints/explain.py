"""Why a saved state does not fit a config, in the config's words."""

import re
from collections.abc import Mapping
from typing import Any

Texts = Mapping[str, str]

_NAMED_TENSORS = 3

# Key of the config → the parameter whose shape shows it, and on which axis: for what a checkpoint
# does not record of its config, as none did in their first version, and for its data.
_AXES = {
    "model.depth": ("blocks/mlp/hidden/kernel", 0),
    "model.embed_dim": ("patch_embed/position_embedding", 1),
    "model.num_heads": ("blocks/attention/query_kernel", 2),
    "model.head_dim": ("blocks/attention/query_kernel", 3),
    "model.memory_size": ("blocks/attention/key_memory", 2),
    "model.mlp_dim": ("blocks/mlp/hidden/kernel", 2),
    "the number of classes (dataset.name)": ("head/bias", 0),
    "the number of patches (model.patch_size)": ("patch_embed/position_embedding", 0),
}


def shaping(config: Mapping[str, Any]) -> dict[str, str]:
    """Key → value as a text, of those keys of a config that may shape a state."""
    return {k: str(value) for k, value in config.items() if k.startswith(("model.", "optimizer."))}


def mismatch(there: Texts, here: Texts, config_there: Texts, config_here: Texts) -> str:
    """How a saved state differs from the one that a config describes; empty where it does not.

    Both are told by their tensors, such as `"params/head/bias": "float32[100]"`, and by what
    `shaping` gave for their configs, empty where that is not known.
    """
    tensors = [
        f"{name} is {there.get(name, 'missing')} in the checkpoint "
        f"and {here.get(name, 'missing')} here"
        for name in {**here, **there}
        if here.get(name) != there.get(name)
    ]
    if not tensors:
        return ""
    if (more := len(tensors) - _NAMED_TENSORS) > 0:
        tensors[_NAMED_TENSORS:] = [f"and {more} more"]
    saved = _told_by(there) | (dict(config_there) if config_here else {})
    wanted = _told_by(here) | dict(config_here)
    keys = [
        f"{key} is {saved[key]} in the checkpoint and {wanted[key]} here"
        for key in saved
        if key in wanted and saved[key] != wanted[key]
    ]
    return "; ".join([*keys, *tensors])


def _told_by(tensors: Texts) -> dict[str, str]:
    external = "params/blocks/attention/key_memory" in tensors
    attends = any(name.startswith("params/blocks/attention/") for name in tensors)
    averaged = any(name.startswith("ema/") for name in tensors)
    values = {
        "model.attention": "external" if external else "self" if attends else "none",
        "model.final_norm": str("params/final_norm/scale" in tensors),
        "model.param_dtype": tensors.get("params/head/bias", "").partition("[")[0],
        "a moving average (optimizer.ema_decay)": "there" if averaged else "missing",
    }
    for key, (name, axis) in _AXES.items():
        shape = re.findall(r"\d+", tensors.get(f"params/{name}", "").partition("[")[2])
        if axis < len(shape):
            values[key] = shape[axis]
    return values
