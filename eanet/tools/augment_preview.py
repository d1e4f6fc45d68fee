"""Draws images of the training split as they are, and below them as augmentation changes them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from eanet import files
from eanet.augment import pipeline
from eanet.cli import say
from eanet.config_flags import ConfigParser
from eanet.data.base import Split
from eanet.data.load import Dataset, load_dataset
from eanet.display.plot_style import INK, KINDS, new_figure, saved
from eanet.errors import UserError, printable
from eanet.training import config_schema
from eanet.training.batches import normalizer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IMAGES = 16
DRAWS = 5
_ELSEWHERE = "choose another --out"


def main(arguments: list[str], prog: str) -> None:
    """The command `preview`."""
    parser = ConfigParser(prog, __doc__)
    parser.add_argument(
        "--out", type=Path, metavar="FILE", default="augment.png", help="default: %(default)s"
    )
    options, config, _ = parser.parse(arguments)
    kind = options.out.suffix.removeprefix(".")
    if kind not in KINDS:
        raise UserError(
            f"--out={options.out}: the picture is written as a file .{', .'.join(KINDS)}"
        )
    config_schema.check(config)
    files.check_place(options.out, _ELSEWHERE)
    dataset = load_dataset(seed=config.seed, log=say, **config.dataset)
    pipeline.check(dataset.image_shape, **config.augment)
    train = dataset.train
    # Spread over the split, because folders come sorted by class.
    chosen = np.linspace(0, len(train) - 1, min(IMAGES, len(train))).astype(int)
    crops = dataset.crops
    parts = [crops[chosen + draw * len(train)] for draw in range(DRAWS)] if crops else []
    figure = draw(train[chosen], dataset, config.augment.to_dict(), config.seed, parts)
    files.write(options.out, saved(figure, kind), _ELSEWHERE)
    say(f"{len(chosen)} images of {dataset.name} before and after: {options.out}")


def draw(
    examples: Split,
    dataset: Dataset,
    augmentation: Mapping[str, Any],
    seed: int,
    parts: Sequence[np.ndarray] = (),
) -> "Figure":
    """Some examples of a data set in the top row, and `DRAWS` rows of them augmented.

    Where only parts of the images are trained on, `parts` has those of each of these rows.
    """
    images = jnp.asarray(examples.images)
    targets = jax.nn.one_hot(examples.labels, dataset.num_classes)
    normalize = normalizer(dataset.mean, dataset.std)

    @jax.jit
    def augment(key: Array, images: Array) -> tuple[Array, Array]:
        pixels = pipeline.augment_pixels(key, images, **augmentation)
        return pipeline.augment(key, normalize(pixels), targets, **augmentation)

    keys = jax.random.split(jax.random.key(seed), DRAWS)
    mixed = any(augmentation.get(n) for n, a in pipeline.AUGMENTATIONS.items() if a.mixes)
    row_height = 1.15 if mixed else 0.95
    on = ["decode crop"] if parts else []
    on += [
        n.replace("_", " ") if value is True else f"{n.replace('_', ' ')} {value:g}"
        for n, value in augmentation.items()
        if value and (mixed or n != pipeline.MIX_PROBABILITY)
    ]
    figure = new_figure(
        0.95 * len(examples),
        row_height * (DRAWS + 1) + 0.6,
        f"Top row: as they are; below: {', '.join(on) or 'nothing is on'}",
    )
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    axes = figure.subplots(DRAWS + 1, len(examples), squeeze=False)
    each: list[Any] = [*parts] or [images] * DRAWS
    augmented = map(augment, keys, map(jnp.asarray, each))
    for row, batch in enumerate([(normalize(images), targets), *augmented]):
        # Clipped here only: a screen shows nothing beyond black and white.
        pixels = np.clip(np.asarray(batch[0]) * dataset.std + dataset.mean, 0, 255)
        shown = zip(axes[row], pixels.astype(np.uint8), np.asarray(batch[1]), strict=True)
        for axis, image, target in shown:
            axis.imshow(image if image.shape[-1] == 3 else image[..., 0], cmap="gray", vmax=255)
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            if row == 0 or mixed:
                caption = _caption(target, dataset.class_names)
                axis.set_title(caption, size=6, color=INK, pad=2, parse_math=False)
    return figure


def _caption(target: Float[np.ndarray, "classes"], class_names: tuple[str, ...]) -> str:
    """The name of the class, or both names and weights of a mixed example."""
    parts = [index for index in np.argsort(-target)[:2] if target[index] >= 0.005]
    if len(parts) == 1:
        return printable(class_names[parts[0]])
    return "\n".join(f"{printable(class_names[index])} {target[index]:.0%}" for index in parts)
