"""A tiny model on the embedded digits, for tests: seconds, not accuracy.

python main.py --config=configs/testing.py
"""

from ml_collections import ConfigDict

from configs import eanet_digits


def get_config() -> ConfigDict:
    """The digits config, shrunk, with everything random switched on."""
    config = eanet_digits.get_config()
    config.batch_size = 64
    config.num_epochs = 2.0
    config.augment.flip = True
    config.augment.mixup = 0.2
    config.model.embed_dim = 16
    config.model.depth = 2
    config.model.num_heads = 2
    config.model.head_dim = 8
    config.model.memory_size = 8
    config.model.mlp_dim = 16
    config.model.dropout_rate = 0.1
    config.optimizer.warmup_epochs = 0.5
    config.optimizer.ema_decay = 0.9
    return config
