"""The tiny model without what its training step takes long to compile for: half the time."""

from ml_collections import ConfigDict

from configs import testing

CHANGES = {
    "augment.flip": False,
    "augment.rotation": 0.0,
    "augment.zoom": 0.0,
    "augment.mixup": 0.0,
    "model.dropout_rate": 0.0,
    "optimizer.ema_decay": 0.0,
}
# The same for a command.
ARGUMENTS = ("--config=configs/testing.py", *(f"--config.{k}={v}" for k, v in CHANGES.items()))


def get_config(**changes) -> ConfigDict:
    """For tests of everything but randomness; `trained` is another run, with all of it."""
    config = testing.get_config()
    config.update_from_flattened_dict(CHANGES | changes)
    return config
