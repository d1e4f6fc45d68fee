"""The Keras example "Image classification with EANet" on CIFAR-100, faithful to its settings.

python main.py --config=configs/eanet_cifar100.py

Published by Keras after 50 epochs: 43.9 % top-1, 74.7 % top-5 on test. Measured here (the command
above, seed 0, n = 1): 44.3 % and 74.9 % on test, 43.5 % top-1 on validation; the record is in
docs/cifar100_50epochs. On 2 cores of an AMD EPYC (Zen 4) 219 images/s were measured
(docs/performance.md), which makes an epoch three to four minutes.

Sweeps, each with three seeds but the last, which has ten:

python main.py --mode=sweep --config=configs/eanet_cifar100.py --sweep=memory_and_width [--dry_run]
"""

from collections.abc import Iterator

from ml_collections import ConfigDict

from eanet import sweep


def get_config() -> ConfigDict:
    """The base of the other configs: every key that there is, with the example's value."""
    config = ConfigDict()
    config.seed = 0  # of the initial parameters, the order of examples, augmentation and dropout
    config.init_from = ""  # a run, a file of weights or hf:USER/NAME to start from
    config.batch_size = 128  # images a step, on all devices together
    config.microbatch_size = 0  # images a pass, gradients are summed over passes; 0: the fastest
    config.num_epochs = 50.0  # may be fractional
    config.mild_epochs = 0.0  # the last so many are without policy, erasing and mixing
    config.label_smoothing = 0.1  # share of the target spread evenly over all classes
    config.eval_every_epochs = 1.0  # validate this often, and report the training metrics
    config.checkpoint_every_epochs = 1.0  # save this often, besides at every validation
    config.checkpoint_every_steps = 0  # and this often; 0: no more
    config.checkpoint_every_minutes = 0.0  # and this often; 0: no more
    config.on_nonfinite = "stop"  # where loss or gradient is not finite, or "skip" that step
    config.nonfinite_limit = 10  # so many steps may be skipped in a run
    config.layer_statistics = False  # log activations and gradients by layer at every report
    config.matmul_precision = ""  # of float32: "" as JAX has it, or "tensorfloat32", "highest"
    config.random_bits = "counter"  # generator of dropout and augmentation, or "threefry2x32"

    config.dataset = dataset = ConfigDict()
    dataset.name = "cifar100"  # a TFDS name, "digits", or "folder:PATH"
    dataset.data_dir = ""  # of prepared TFDS data; empty: $TFDS_DATA_DIR or ~/tensorflow_datasets
    dataset.val_fraction = 0.2  # share of the training split that is held out for validation
    dataset.val_split = "last"  # "last": the end of the split, unshuffled; "random": stratified
    dataset.test_fraction = 0.2  # share of each class, where the source has no test split
    dataset.image_size = None  # (height, width) that all images get; None: all have one size
    dataset.resize = "squash"  # to that size, or "crop" around the centre, or "pad" with black
    dataset.on_bad_image = "refuse"  # a file of a folder that cannot be read, or "skip" it
    dataset.streaming = None  # read images anew in every epoch; None: where memory is too small
    dataset.decode_crop = 0.0  # streamed: decode a random part of this area at least; 0: off
    dataset.class_weights = "none"  # of the loss, or "balanced": each class as much as any other

    config.augment = augment = ConfigDict()
    augment.trivial_augment = False  # the policy TrivialAugment Wide: one operation an image
    augment.rand_augment = 0  # RandAugment: two operations of this strength, up to 30; 0: off
    augment.flip = True  # mirror left and right with probability 1/2
    augment.rotation = 0.1  # largest rotation either way, as a fraction of a turn
    augment.contrast = 0.1  # largest change of the contrast factor from 1
    augment.zoom = 0.2  # largest change of height and width, independently
    augment.pad_crop = 0  # pad by this many pixels and crop back at random
    augment.random_resized_crop = 0.0  # enlarge a random part of this area at least; 0: off
    augment.random_erasing = 0.0  # probability of erasing a random rectangle
    augment.mixup = 0.0  # alpha of mixup
    augment.cutmix = 0.0  # alpha of cutmix
    augment.mix_probability = 1.0  # of a batch to be mixed, by either of them
    augment.keras3_contrast_clip = False  # reproduce the defect of Keras 3 (docs/parity.md)

    config.model = model = ConfigDict()
    model.stem = "patches"  # or "convolutions" of 3×3 and stride 2 up to the size of a patch
    model.patch_size = 2  # side of a patch in pixels
    model.embed_dim = 64  # d, width of a token
    model.depth = 8  # number of blocks
    model.num_heads = 16  # H
    model.head_dim = 16  # width of a head
    model.memory_size = 16  # S, number of memory units (external attention)
    model.mlp_dim = 64  # hidden width of the MLP
    model.attention = "external"  # or "self", or "none" at all
    model.implementation = "fast"  # or "plain", the same function; or "auto", by the platform
    model.norm = "double"  # or "softmax_tokens", "softmax_memory", "none" (external attention)
    model.norm_groups = 1  # of units, each with a sum of its own ("double" and "softmax_memory")
    model.local_mixing = False  # a depthwise 3×3 convolution over the tokens in each block
    model.residual_scale = 0.0  # initial value of a learned scale of each branch; 0: none
    model.final_norm = False  # a layer norm before the pooling
    model.pooling = "mean"  # over the tokens, or "attention", a mean with learned weights
    model.dropout_rate = 0.2  # after attention weights, attention output, GELU and MLP output
    model.stochastic_depth = 0.0  # odds that an image skips a branch of the last block; rises to it
    model.dtype = "float32"  # of the computation, or "bfloat16"
    model.param_dtype = "float32"  # of the parameters

    config.optimizer = optimizer = ConfigDict()
    optimizer.name = "adamw"  # or "adam", "sgd", "lion", "muon"
    optimizer.learning_rate = 1e-3  # peak
    optimizer.schedule = "constant"  # or "cosine", "one_cycle"
    optimizer.warmup_epochs = 0.0  # linear rise from zero
    # The example's AdamW subtracts 1e-4·w a step, not multiplied by the learning rate: 0.1 here.
    optimizer.weight_decay = 0.1  # learning_rate · weight_decay · w is subtracted each step
    optimizer.decay = "all"  # which parameters decay: "all", or "matrices" only
    optimizer.clip_norm = 0.0  # global norm to which gradients are clipped; 0: not at all
    optimizer.b1 = 0.9  # decay of the first moment (adamw, adam, lion)
    optimizer.b2 = 0.999  # decay of the second moment (adamw, adam, lion)
    optimizer.epsilon = 1e-7  # added to the root of the second moment (Keras' default)
    optimizer.momentum = 0.9  # of sgd and muon
    optimizer.ema_decay = 0.0  # of the moving average of the weights to evaluate; 0: none
    optimizer.freeze = ""  # parameters that stay as they are: "patch_embed/*,blocks/0/*"
    optimizer.head_multiplier = 1.0  # of the head's learning rate
    optimizer.layer_decay = 1.0  # of the learning rate, from each block to the one before it
    return config


def sweep_memory_size() -> Iterator[sweep.Overrides]:
    """The memory size S alone."""
    return sweep.product(
        sweep.axis("model.memory_size", 4, 8, 16, 32, 64, 128, 256), sweep.seeds(3)
    )


def sweep_embed_dim() -> Iterator[sweep.Overrides]:
    """The width d alone; heads, their width and the MLP stay as they are."""
    return sweep.product(sweep.axis("model.embed_dim", 16, 32, 64, 128, 256), sweep.seeds(3))


def sweep_memory_and_width() -> Iterator[sweep.Overrides]:
    """The grid of both."""
    return sweep.product(
        sweep.axis("model.memory_size", 4, 16, 64, 256),
        sweep.axis("model.embed_dim", 32, 64, 128),
        sweep.seeds(3),
    )


def sweep_attention() -> Iterator[sweep.Overrides]:
    """External attention (361,380 parameters, 84.1 M multiply-adds) against self-attention."""
    return sweep.product(
        sweep.zip_(
            sweep.axis("model.attention", "external", "self", "self", "self"),
            # Self-attention as wide (623,268 parameters, 419.6 M multiply-adds), with as many
            # parameters (358,052; 218.3 M), and with as many multiply-adds (179,860; 83.0 M).
            sweep.axis("model.num_heads", 16, 16, 8, 3),
            sweep.axis("model.head_dim", 16, 16, 16, 14),
        ),
        sweep.seeds(3),
    )


def sweep_norm() -> Iterator[sweep.Overrides]:
    """The double normalisation against either of its halves alone, and against none."""
    return sweep.product(
        sweep.axis("model.norm", "double", "softmax_tokens", "softmax_memory", "none"),
        sweep.seeds(3),
    )


def sweep_seeds() -> list[sweep.Overrides]:
    """How much the seed alone makes out."""
    return sweep.seeds(10)
