"""Why a saved state does not fit a config, in the config's words."""

import re
from collections.abc import Mapping
from typing import Any

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


def differences(
    there: Mapping[str, str],
    here: Mapping[str, str],
    config_there: Mapping[str, str],
    config_here: Mapping[str, str],
) -> list[str]:
    """How two configs differ, as far as it is recorded or tensors show it.

    Args:
      there: name → dtype and shape of a saved state, such as `"params/head/bias": "float32[100]"`.
      here: likewise, of the state that a config describes.
      config_there: what `shaping` gave when the state was saved, empty where that is not known.
      config_here: what it gives for that config; empty likewise.

    Returns:
      A phrase for each key whose two values are known and differ.
    """
    saved = _told_by(there) | (dict(config_there) if config_here else {})
    wanted = _told_by(here) | dict(config_here)
    return [
        f"{key} is {saved[key]} in the checkpoint and {wanted[key]} here"
        for key in saved
        if key in wanted and saved[key] != wanted[key]
    ]


def _told_by(tensors: Mapping[str, str]) -> dict[str, str]:
    params = {
        name.removeprefix("params/"): form
        for name, form in tensors.items()
        if name.startswith("params/")
    }
    averaged = any(name.startswith("ema/") for name in tensors)
    values = {
        "model.attention": "external" if "blocks/attention/key_memory" in params else "self",
        "model.final_norm": str("final_norm/scale" in params),
        "model.param_dtype": params.get("head/bias", "").partition("[")[0],
        "a moving average (optimizer.ema_decay)": "there" if averaged else "missing",
    }
    for key, (name, axis) in _AXES.items():
        shape = re.findall(r"\d+", params.get(name, "").partition("[")[2])
        if axis < len(shape):
            values[key] = shape[axis]
    return values
