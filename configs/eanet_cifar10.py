"""EANet on CIFAR-10, otherwise the settings of the CIFAR-100 example.

python main.py --config=configs/eanet_cifar10.py
"""

from ml_collections import ConfigDict

from configs import eanet_cifar100


def get_config() -> ConfigDict:
    """The CIFAR-100 config with the other data set."""
    config = eanet_cifar100.get_config()
    config.dataset.name = "cifar10"
    return config
