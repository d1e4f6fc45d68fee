"""The picture behind `python -m eanet.augment`: one batch before and after augmentation."""

import functools
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from eanet import files
from eanet.augment.pipeline import augment
from eanet.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IMAGES = 16
DRAWS = 5


def draw_batch(
    images: Float[np.ndarray, "batch height width channels"],
    labels: Int[np.ndarray, "batch"],
    class_names: list[str],
    mean: Float[np.ndarray, "channels"],
    std: Float[np.ndarray, "channels"],
    switches: dict[str, Any],
    *,
    seed: int,
) -> "Figure":
    """Draws the originals in the top row and `DRAWS` augmented batches below.

    Args:
      images: values from 0 to 255 before normalisation.
      labels: the classes of the images.
      class_names: one name for each class.
      mean: of the training set, on the scale of the images.
      std: likewise.
      switches: the keyword arguments of `augment`.
      seed: of the random draws.
    """
    from matplotlib.figure import Figure

    normalized = jnp.asarray((images - mean) / std, jnp.float32)
    targets = jax.nn.one_hot(labels, len(class_names))
    run = jax.jit(functools.partial(augment, **switches))
    batches = [
        run(key, normalized, targets) for key in jax.random.split(jax.random.key(seed), DRAWS)
    ]
    mixed = bool(switches.get("mixup") or switches.get("cutmix"))
    row_height = 1.15 if mixed else 0.95
    figure = Figure(figsize=(0.95 * len(images), row_height * (DRAWS + 1) + 0.6), dpi=120)
    axes = figure.subplots(DRAWS + 1, len(images), squeeze=False)
    for row, (batch, batch_targets) in enumerate([(normalized, targets), *batches]):
        # Clipped here only: a screen shows nothing beyond black and white.
        pixels = np.clip(np.asarray(batch) * std + mean, 0, 255).astype(np.uint8)
        for axis, image, target in zip(axes[row], pixels, np.asarray(batch_targets), strict=True):
            axis.imshow(image if image.shape[-1] == 3 else image[..., 0], cmap="gray", vmax=255)
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            if row == 0 or mixed:
                axis.set_title(_caption(target, class_names), fontsize=6, pad=2)
    figure.suptitle(_title(switches), fontsize=9)
    figure.tight_layout(pad=0.4, h_pad=0.3, w_pad=0.3, rect=(0, 0, 1, 0.985))
    return figure


def _caption(target: Float[np.ndarray, "classes"], class_names: list[str]) -> str:
    """The name of the class, or both names and weights of a mixed example."""
    parts = [index for index in np.argsort(-target)[:2] if target[index] >= 0.005]
    if len(parts) == 1:
        return class_names[parts[0]]
    return "\n".join(f"{class_names[index]} {target[index]:.0%}" for index in parts)


def _title(switches: dict[str, Any]) -> str:
    on = [
        name if value is True else f"{name} {value:g}" for name, value in switches.items() if value
    ]
    return "top: original; below: " + (", ".join(on) or "every augmentation is off")


def save(figure: "Figure", path: Path) -> None:
    """Writes a PNG; an existing file is replaced only by a complete one."""
    if path.suffix != ".png" or not path.parent.is_dir():
        raise UserError(f"--out={path}: name a .png file in a directory that exists")
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    files.write(path, picture.getvalue())


def command() -> None:
    """Runs the command line: `--config`, its overrides and `--out`."""
    from absl import flags

    from eanet import config_flags
    from eanet.data.load import load_dataset
    from eanet.training import config_schema

    config_flag = config_flags.DEFINE_config()
    out = flags.DEFINE_string("out", "augment.png", "The picture to write, a .png file.")

    def main(argv: Sequence[str]) -> None:
        del argv
        config = config_flag.value
        if config is None:
            raise UserError("--config=FILE is missing, for example configs/eanet_cifar100.py")
        config_schema.check(config)
        dataset = load_dataset(
            config.dataset.name,
            data_dir=config.dataset.data_dir,
            val_fraction=config.dataset.val_fraction,
            val_split=config.dataset.val_split,
            seed=config.seed,
        )
        # Spread over the set, because folders come sorted by class.
        count = min(IMAGES, len(dataset.train.images))
        chosen = np.linspace(0, len(dataset.train.images) - 1, count).astype(int)
        figure = draw_batch(
            np.asarray(dataset.train.images[chosen], np.float32),
            np.asarray(dataset.train.labels[chosen]),
            list(dataset.class_names),
            dataset.mean,
            dataset.std,
            config.augment.to_dict(),
            seed=config.seed,
        )
        save(figure, Path(out.value))
        print(f"{count} images of {config.dataset.name}, before and after: {out.value}")

    config_flags.run(main)
