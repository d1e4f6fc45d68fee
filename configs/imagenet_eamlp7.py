"""EAMLP-7 of the paper on ImageNet at 384 px: external attention in every block, 300 epochs.

python main.py --config=configs/imagenet_eamlp7.py

Not trained here. The authors' log (EAMLP/EAMLP_7_384 beside their code) ends with 71.66 % top-1
after 310 epochs. Blocks, widths and recipe are those of that code and its args.yaml, but for what
this project does otherwise: patches in place of its tokens-to-token stem (6,186,600 parameters;
6.1 M there), the mean of all tokens in place of a class token, torchvision's RandAugment in place
of timm's, bfloat16, and a rate that ends at zero. 3.28 G MACs an image.

What it takes to train: docs/imagenet.md.
"""

from ml_collections import ConfigDict

from configs import eanet_cifar100


def get_config() -> ConfigDict:
    """The published model and recipe, for accelerators."""
    config = eanet_cifar100.get_config()
    config.batch_size = 512  # 64 a process there; the number of processes is not in the log
    config.num_epochs = 300.0
    config.dataset.name = "imagenet2012"
    config.dataset.image_size = (384, 384)
    config.dataset.resize = "crop"
    config.dataset.val_fraction = 0.02
    config.dataset.val_split = "random"
    config.dataset.streaming = True
    config.dataset.decode_crop = 0.08
    augment = config.augment
    augment.rotation = augment.contrast = augment.zoom = 0.0
    augment.rand_augment = 9
    augment.random_erasing = 0.25
    augment.mixup = 0.8
    augment.cutmix = 1.0
    config.model.patch_size = 16
    config.model.embed_dim = 256
    config.model.depth = 7
    config.model.num_heads = 16
    config.model.head_dim = 64
    config.model.memory_size = 64
    config.model.mlp_dim = 512
    config.model.implementation = "auto"
    config.model.final_norm = True
    config.model.dropout_rate = 0.0
    config.model.stochastic_depth = 0.1
    config.model.dtype = "bfloat16"
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_epochs = 5.0
    config.optimizer.weight_decay = 0.03
    config.optimizer.decay = "matrices"
    config.optimizer.epsilon = 1e-8
    config.optimizer.ema_decay = 0.99996
    return config
