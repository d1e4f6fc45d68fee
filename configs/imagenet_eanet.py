"""EANet on ImageNet at 224 px: a convolutional stem, neighbours mixed in twelve deeper blocks.

python main.py --config=configs/imagenet_eanet.py

Not trained here. The recipe is that of configs/imagenet_eamlp7.py. What differs gives the network
the notion of neighbourhood that external attention lacks. What it takes: docs/imagenet.md.
"""

from ml_collections import ConfigDict

from configs import imagenet_eamlp7


def get_config() -> ConfigDict:
    """A third of the tokens of EAMLP-7, and more blocks."""
    config = imagenet_eamlp7.get_config()
    config.batch_size = 1024
    config.dataset.image_size = (224, 224)
    config.model.stem = "convolutions"
    config.model.local_mixing = True
    config.model.pooling = "attention"
    config.model.depth = 12
    config.model.mlp_dim = 768
    return config
