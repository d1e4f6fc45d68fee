"""The Keras example's model on one backend of Keras 3, by `fit` and `evaluate` as its user has it.

`KERAS_BACKEND` names the backend. Float32, threads as the backend chooses (all cores),
`jit_compile` as the task says: "auto" compiles with XLA wherever Keras holds that to be possible.
The contrast of the augmentation is Keras' own with its clip, which takes no time that matters.
"""

from functools import partial
from typing import Any

import keras
import numpy as np

from benchmarks.contestant import (
    Prepared,
    fastest_batch_size,
    on_gpu,
    random_images,
    repeat,
    serve,
)
from eanet.convert import keras_model

SHAPE_KEYS = (
    "patch_size",
    "embed_dim",
    "depth",
    "num_heads",
    "head_dim",
    "memory_size",
    "mlp_dim",
    "attention",
    "dropout_rate",
)


def prepare(task: dict[str, Any]) -> Prepared:
    """Builds and compiles the model; the fastest batch size is chosen for evaluation."""
    if on_gpu() and keras.backend.backend() == "tensorflow":
        refuse_cpu()
    config = task["config"]
    batch_size = config["batch_size"]
    images, labels = random_images(task, max(8 * batch_size, task["evaluated"]))
    targets = np.eye(task["num_classes"], dtype=np.float32)[labels]
    model = build(task, images)

    def evaluate(batch_size: int) -> None:
        count = task["evaluated"]
        model.evaluate(images[:count], targets[:count], batch_size=batch_size, verbose=0)

    def train(count: int) -> None:
        epochs, rest = divmod(count, len(images) // batch_size)
        if epochs:
            model.fit(images, targets, batch_size, epochs, verbose=0, shuffle=False)
        if rest:
            part = slice(rest * batch_size)
            model.fit(images[part], targets[part], batch_size, verbose=0, shuffle=False)

    parameters = sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
    facts = {
        "keras": keras.__version__,
        keras.backend.backend(): backend_version(),
        "jit_compile": model.jit_compile,
    }
    if not task["evaluated"]:
        return Prepared(train, batch_size, parameters, facts)
    chosen = fastest_batch_size(evaluate)
    work = repeat(partial(evaluate, chosen))
    return Prepared(work, task["evaluated"], parameters, facts | {"batch_size": chosen})


def build(task: dict[str, Any], images: np.ndarray) -> keras.Model:
    """The compiled model with the loss, metrics and optimizer of our config."""
    config, optimizer = task["config"], task["config"]["optimizer"]
    normalization = keras.layers.Normalization()
    preprocessing = keras.Sequential([normalization])
    if task["augmented"]:
        preprocessing = keras_model.augmentation()
        normalization = preprocessing.layers[0]
    normalization.adapt(images)
    model = keras_model.build(
        num_classes=task["num_classes"],
        image_shape=task["image_shape"],
        preprocessing=preprocessing,
        activation=None,
        **{key: config["model"][key] for key in SHAPE_KEYS},
    )
    model.compile(
        optimizer=keras.optimizers.AdamW(
            optimizer["learning_rate"],
            weight_decay=optimizer["weight_decay"],
            beta_1=optimizer["b1"],
            beta_2=optimizer["b2"],
            epsilon=optimizer["epsilon"],
        ),
        loss=keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=config["label_smoothing"]
        ),
        metrics=[
            keras.metrics.CategoricalAccuracy(),
            keras.metrics.TopKCategoricalAccuracy(5),
        ],
        jit_compile=task["jit_compile"],
    )
    return model


def refuse_cpu() -> None:
    """TensorFlow computes on the CPU where it finds no GPU, and only logs it."""
    import tensorflow

    if not tensorflow.config.list_physical_devices("GPU"):
        raise RuntimeError("TensorFlow finds no GPU")


def backend_version() -> str:
    """The version of the library that computes."""
    return __import__(keras.backend.backend()).__version__


if __name__ == "__main__":
    serve(prepare)
