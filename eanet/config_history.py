"""How the keys of a config have grown: the one table to add a new key to.

A config without a key of `ADDED`, of an older run or in a user's own file, takes the value that
stands there: the one with which the program does what it did before the key existed. A config
without a key of `FIRST` is damaged. Keys of parts that were registered from outside may stand in a
config or not; the part has its own default.
"""

from typing import Any

_FIRST = {  # by the section
    "": """seed batch_size microbatch_size num_epochs label_smoothing random_bits eval_every_epochs
        checkpoint_every_epochs""",
    "dataset.": "name data_dir val_fraction val_split",
    "augment.": """flip rotation contrast keras3_contrast_clip zoom pad_crop random_erasing mixup
        cutmix""",
    "model.": """patch_size embed_dim depth num_heads head_dim memory_size mlp_dim attention norm
        final_norm dropout_rate dtype param_dtype""",
    "optimizer.": """name learning_rate schedule warmup_epochs weight_decay decay clip_norm b1 b2
        epsilon momentum ema_decay""",
}
FIRST = frozenset(section + name for section in _FIRST for name in _FIRST[section].split())

ADDED: dict[str, dict[str, Any]] = {  # by the version that brought them
    "0.1.0": {
        "checkpoint_every_steps": 0,
        "checkpoint_every_minutes": 0.0,
        "on_nonfinite": "stop",
        "nonfinite_limit": 10,
        "layer_statistics": False,
    },
    "0.2.0": {
        "init_from": "",
        "model.stem": "patches",
        "model.implementation": "fast",
        "model.local_mixing": False,
        "model.pooling": "mean",
        "model.stochastic_depth": 0.0,
        "model.residual_scale": 0.0,
        "model.norm_groups": 1,
        "optimizer.freeze": "",
        "optimizer.head_multiplier": 1.0,
        "optimizer.layer_decay": 1.0,
        "mild_epochs": 0.0,
        "matmul_precision": "",
        "augment.mix_probability": 1.0,
        "augment.trivial_augment": False,
        "augment.rand_augment": 0,
        "augment.random_resized_crop": 0.0,
        "dataset.image_size": None,
        "dataset.resize": "squash",
        "dataset.test_fraction": 0.2,
        "dataset.on_bad_image": "refuse",
        "dataset.class_weights": "none",
        "dataset.streaming": None,
        "dataset.decode_crop": 0.0,
    },
}

# Keys whose value may be None, and the kind of value that they have otherwise.
OPTIONAL: dict[str, type] = {"dataset.image_size": tuple, "dataset.streaming": bool}

REQUIRED = FIRST.union(*ADDED.values())
