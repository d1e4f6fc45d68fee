"""What processes of one training must have alike, see `Members.refuse_differences`."""

import jax
from ml_collections import ConfigDict

from eanet import config as config_lib
from eanet import devices, host
from eanet.data.load import Dataset
from eanet.environment import code, versions

# Settings under which processes would not compute the same, and keys of a config that may differ.
_SETTINGS = ("JAX_DEFAULT_MATMUL_PRECISION", "NVIDIA_TF32_OVERRIDE", "XLA_FLAGS")
_PLACES = ("dataset.data_dir",)


def program() -> dict[str, str]:
    """Code, versions, platform, and settings of the environment."""
    devices.local_devices()
    chosen = {name: value for name, value in host.settings().items() if name in _SETTINGS}
    return {"code": code(), "platform": jax.default_backend(), **versions(), **chosen}


def settings(config: ConfigDict) -> dict[str, str]:
    """Every key of the config but where the data lies."""
    return {key: repr(value) for key, value in config_lib.flatten(config) if key not in _PLACES}


def data(dataset: Dataset, streams: bool) -> dict[str, str]:
    """The data as it is used, and whether training images are streamed."""
    statistics = [float(value) for value in (*dataset.mean, *dataset.std)]
    used = {f"{name} images": str(digest) for name, digest in dataset.fingerprints.items()}
    return used | {
        "classes": ", ".join(dataset.class_names),
        "examples": str([len(split) for split in (dataset.train, dataset.val, dataset.test)]),
        "mean and deviation": str(statistics),
        "dataset.streaming, chosen by memory,": str(streams),
    }
