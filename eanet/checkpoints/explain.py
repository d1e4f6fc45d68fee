"""What the tensors of a saved state tell about the config that it was trained with."""

import re
from collections.abc import Mapping
from typing import Any

# Key of the config → the parameter whose shape shows it, and on which axis.
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


def differences(there: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    """How two configs differ, as far as tensors show it.

    Args:
      there: name → dtype and shape of a saved state, such as `"params/head/bias": "float32[100]"`.
      here: likewise, of the state that a config describes.

    Returns:
      A phrase for each key whose two values are known and differ.
    """
    saved, wanted = _values(there), _values(here)
    return [
        f"{key} is {saved[key]} in the checkpoint and {wanted[key]} here"
        for key in saved
        if key in wanted and saved[key] != wanted[key]
    ]


def _values(tensors: Mapping[str, str]) -> dict[str, Any]:
    params = {
        name.removeprefix("params/"): form
        for name, form in tensors.items()
        if name.startswith("params/")
    }
    external = "blocks/attention/key_memory" in params
    values: dict[str, Any] = {
        "model.attention": "external" if external else "self",
        "model.final_norm": "final_norm/scale" in params,
        "model.param_dtype": params.get("head/bias", "").partition("[")[0],
        "optimizer.ema_decay": "above 0" if any(n.startswith("ema/") for n in tensors) else 0,
    }
    for key, (name, axis) in _AXES.items():
        shape = re.findall(r"\d+", params.get(name, "").partition("[")[2])
        if axis < len(shape):
            values[key] = int(shape[axis])
    return values
