"""Random changes of a training batch, on the device and inside the jitted step.

Every function is pure and takes `jax.random` keys of any implementation. Images are floats
`[batch, height, width, channels]`, already normalised per channel, so that zero is the channel's
mean over the training set. Nothing is clipped: training and evaluation share one range of values.
Arithmetic is float32 whatever the images' type, and the result has the images' type.

What is drawn at random is kept apart from what is done with it (`rotate`, `zoom`,
`adjust_contrast`), so that the latter compares with other implementations for equal parameters.

`python -m eanet.augment --config=CONFIG [--out=augment.png]` draws a batch before and after.
"""

import math
from typing import Any

import dm_pix
import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float, Key

from eanet import rules
from eanet.augment.mixing import box_mask, cutmix, mixup
from eanet.errors import UserError
from eanet.rules import Number, Switch

Images = Float[Array, "batch height width channels"]
Targets = Float[Array, "batch classes"]
PerImage = Float[Array, "batch"]

# Of the erased box: the least and the greatest part of the image, the greatest ratio of its sides.
ERASED_AREA = (0.02, 0.4)
ERASED_ASPECT = 1 / 0.3

# 0 switches off. Above 1, contrast would turn dark into light; above 0.99, zoom would shrink a view
# to nothing.
RULES: dict[str, rules.Rule] = {
    "flip": Switch(),
    "rotation": Number(0, 0.5),
    "contrast": Number(0, 1),
    "zoom": Number(0, 0.99),
    "pad_crop": Number(0, 1000, whole=True),
    "random_erasing": Number(0, 1),
    "mixup": Number(0, 1000),
    "cutmix": Number(0, 1000),
    "keras3_contrast_clip": Switch(),
}


def random_flip(key: Key[Array, ""], images: Images) -> Images:
    """Mirrors left and right with probability one half."""
    flipped = jax.random.bernoulli(key, 0.5, images.shape[:1])
    return jnp.where(flipped[:, None, None, None], dm_pix.flip_left_right(images), images)


def random_rotation(key: Key[Array, ""], images: Images, max_turn: float) -> Images:
    """Rotates by an angle uniform in ±`max_turn`, a fraction of a full turn."""
    turns = jax.random.uniform(key, images.shape[:1], minval=-max_turn, maxval=max_turn)
    return rotate(images, turns * (2 * math.pi))


def rotate(images: Images, angles: PerImage) -> Images:
    """Rotates each image counter-clockwise about its centre, bilinear, edges mirrored.

    The function of Keras' `RandomRotation` with `fill_mode="reflect"`: the centre is
    `((height - 1) / 2, (width - 1) / 2)`, a mirror repeats the pixel at the edge.

    Args:
      images: `[batch, height, width, channels]`.
      angles: radians, one for each image.
    """
    rows, columns = _centred_grid(images)
    cos, sin = jnp.cos(angles)[:, None, None], jnp.sin(angles)[:, None, None]
    return _sample(images, cos * rows + sin * columns, cos * columns - sin * rows)


def random_contrast(
    key: Key[Array, ""], images: Images, max_change: float, *, keras3_clip: bool = False
) -> Images:
    """Multiplies the contrast by a factor uniform in `1 ± max_change`.

    Args:
      key: the source of the factors.
      images: `[batch, height, width, channels]`.
      max_change: from 0 to 1.
      keras3_clip: clip to [0, 255] as Keras 3 does, which zeroes every normalised value below the
        mean, in training only. A defect, kept to show its effect.
    """
    factors = jax.random.uniform(
        key, images.shape[:1], minval=1.0 - max_change, maxval=1.0 + max_change
    )
    changed = adjust_contrast(images, factors)
    return jnp.clip(changed, 0.0, 255.0) if keras3_clip else changed


def adjust_contrast(images: Images, factors: PerImage) -> Images:
    """Multiplies the distance of each value from its image's and channel's mean by a factor."""
    changed = dm_pix.adjust_contrast(images.astype(jnp.float32), factors[:, None, None, None])
    return changed.astype(images.dtype)


def random_zoom(key: Key[Array, ""], images: Images, max_change: float) -> Images:
    """Zooms height and width by independent factors, both uniform in `1 ± max_change`."""
    height_factors, width_factors = jax.random.uniform(
        key, (2, images.shape[0]), minval=1.0 - max_change, maxval=1.0 + max_change
    )
    return zoom(images, height_factors, width_factors)


def zoom(images: Images, height_factors: PerImage, width_factors: PerImage) -> Images:
    """Shows each image `factor` times as much of height and width, about its centre.

    The function of Keras' `RandomZoom` with `fill_mode="reflect"`, bilinear: a factor above 1
    zooms out and fills the border with the image's mirror, a factor below 1 zooms in. Keras'
    own argument is the factor minus 1.
    """
    rows, columns = _centred_grid(images)
    return _sample(
        images, height_factors[:, None, None] * rows, width_factors[:, None, None] * columns
    )


def _centred_grid(images: Images) -> tuple[Array, Array]:
    """Rows `[1, height, 1]` and columns `[1, 1, width]`, counted from the centre of the image."""
    height, width = images.shape[1:3]
    rows = jnp.arange(height, dtype=jnp.float32) - (height - 1) / 2
    columns = jnp.arange(width, dtype=jnp.float32) - (width - 1) / 2
    return rows[None, :, None], columns[None, None, :]


def _sample(
    images: Images,
    rows: Float[Array, "batch #height #width"],
    columns: Float[Array, "batch #height #width"],
) -> Images:
    """Bilinear interpolation at places counted from the centre, images mirrored at their edges."""
    # dm_pix.rotate takes five times as long on CPU: with mirrored edges it calls map_coordinates
    # too, but interpolates between channels as well.
    batch, height, width, _ = images.shape
    rows, columns = (
        jnp.broadcast_to(places, (batch, height, width))
        for places in (rows + (height - 1) / 2, columns + (width - 1) / 2)
    )

    def sample_channel(channel, rows, columns):
        return map_coordinates(channel, (rows, columns), order=1, mode="reflect")

    sample_image = jax.vmap(sample_channel, in_axes=(-1, None, None), out_axes=-1)
    return jax.vmap(sample_image)(images, rows, columns)


def pad_and_crop(key: Key[Array, ""], images: Images, pixels: int) -> Images:
    """Moves each image by up to `pixels` in both directions, filling with zeros, the mean colour.

    The augmentation of He et al. (arXiv 1512.03385): pad by `pixels` on every side, then crop the
    old size at a place uniform among all.
    """
    batch, *size = images.shape
    padded = jnp.pad(images, ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0)))
    corners = jnp.floor(jax.random.uniform(key, (batch, 2)) * (2 * pixels + 1)).astype(jnp.int32)
    # dm_pix.random_crop wants one key an image: twice the time to compile and to run.
    return jax.vmap(
        lambda image, corner: jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), size)
    )(padded, corners)


def random_erasing(key: Key[Array, ""], images: Images, probability: float) -> Images:
    """Sets a random box of an image to zero, the mean colour, with the given probability.

    Zhong et al. (arXiv 1708.04896): the box takes 2 to 40 % of the area, its sides have a ratio
    between 0.3 and 1/0.3. Two differences: the ratio is uniform on a logarithmic scale, so that
    tall and wide boxes are equally likely, and a side longer than the image is shortened where
    the paper draws again.
    """
    batch, height, width, _ = images.shape
    erase_key, shape_key, place_key = jax.random.split(key, 3)
    erased = jax.random.bernoulli(erase_key, probability, (batch,))
    area_draws, aspect_draws = jax.random.uniform(shape_key, (2, batch))
    areas = (ERASED_AREA[0] + area_draws * (ERASED_AREA[1] - ERASED_AREA[0])) * height * width
    root_aspects = jnp.exp((aspect_draws - 0.5) * math.log(ERASED_ASPECT))
    heights = jnp.clip(jnp.round(jnp.sqrt(areas) * root_aspects), 1, height)
    widths = jnp.clip(jnp.round(jnp.sqrt(areas) / root_aspects), 1, width)
    row_draws, column_draws = jax.random.uniform(place_key, (2, batch))
    tops = jnp.floor(row_draws * (height - heights + 1))
    lefts = jnp.floor(column_draws * (width - widths + 1))
    box = jax.vmap(lambda *edges: box_mask((height, width), *edges))(
        tops, tops + heights, lefts, lefts + widths
    )
    box &= erased[:, None, None]
    return jnp.where(box[..., None], jnp.zeros((), images.dtype), images)


def augment(
    key: Key[Array, ""],
    images: Images,
    targets: Targets,
    *,
    flip: bool = False,
    rotation: float = 0.0,
    contrast: float = 0.0,
    zoom: float = 0.0,
    pad_crop: int = 0,
    random_erasing: float = 0.0,
    mixup: float = 0.0,
    cutmix: float = 0.0,
    keras3_contrast_clip: bool = False,
) -> tuple[Images, Targets]:
    """Applies, in the order of the arguments, what is switched on; the rest leaves no operation.

    Each augmentation has its own stream of random numbers: switching one on moves no other.

    Args:
      key: decides everything that is random.
      images: normalised, `[batch, height, width, channels]`.
      targets: probabilities of the classes `[batch, classes]`.
      flip: mirror left and right.
      rotation: greatest angle as a fraction of a turn, at most 0.5.
      contrast: greatest change of the contrast factor from 1, at most 1.
      zoom: greatest change of the zoom factors from 1, below 1.
      pad_crop: greatest shift in pixels, below height and width.
      random_erasing: probability of erasing a box.
      mixup: alpha of the Beta distribution.
      cutmix: likewise; with both, each batch takes one of the two at even odds.
      keras3_contrast_clip: see `random_contrast`.

    Raises:
      UserError: a value is out of its range; the message names the key of the config.
    """
    check(
        images.shape[1:],
        flip=flip,
        rotation=rotation,
        contrast=contrast,
        zoom=zoom,
        pad_crop=pad_crop,
        random_erasing=random_erasing,
        mixup=mixup,
        cutmix=cutmix,
        keras3_contrast_clip=keras3_contrast_clip,
    )
    if not any((flip, rotation, contrast, zoom, pad_crop, random_erasing, mixup, cutmix)):
        return images, targets
    keys = jax.random.split(key, 9)  # all at once, which compiles faster
    # The arguments hide the functions of the same names, which are therefore called elsewhere.
    changed = _change_each(
        keys[:6],
        images.astype(jnp.float32),
        flip=flip,
        turn=rotation,
        contrast=contrast,
        keras3_clip=keras3_contrast_clip,
        scale=zoom,
        shift=pad_crop,
        erased=random_erasing,
    )
    changed, targets = _mix(keys[6:], changed, targets, mixup_alpha=mixup, cutmix_alpha=cutmix)
    return changed.astype(images.dtype), targets


def _change_each(
    keys: Key[Array, "6"],
    images: Images,
    *,
    flip: bool,
    turn: float,
    contrast: float,
    keras3_clip: bool,
    scale: float,
    shift: int,
    erased: float,
) -> Images:
    if flip:
        images = random_flip(keys[0], images)
    if turn:
        images = random_rotation(keys[1], images, turn)
    if contrast:
        images = random_contrast(keys[2], images, contrast, keras3_clip=keras3_clip)
    if scale:
        images = random_zoom(keys[3], images, scale)
    if shift:
        images = pad_and_crop(keys[4], images, shift)
    if erased:
        images = random_erasing(keys[5], images, erased)
    return images


def _mix(
    keys: Key[Array, "3"],
    images: Images,
    targets: Targets,
    *,
    mixup_alpha: float,
    cutmix_alpha: float,
) -> tuple[Images, Targets]:
    if not (mixup_alpha or cutmix_alpha):
        return images, targets
    choice_key, mixup_key, cutmix_key = keys
    if mixup_alpha and cutmix_alpha:
        return jax.lax.cond(
            jax.random.bernoulli(choice_key),
            lambda: mixup(mixup_key, images, targets, mixup_alpha),
            lambda: cutmix(cutmix_key, images, targets, cutmix_alpha),
        )
    if mixup_alpha:
        return mixup(mixup_key, images, targets, mixup_alpha)
    return cutmix(cutmix_key, images, targets, cutmix_alpha)


def check(image_shape: tuple[int, ...], **switches: Any) -> None:
    """Raises `UserError` unless `augment` can do this to images `[height, width, channels]`."""
    rules.check(RULES, switches, "augment.")
    height, width, _ = image_shape
    if (shift := switches.get("pad_crop", 0)) >= min(height, width):
        raise UserError(
            f"augment.pad_crop={shift} can move images of {height}x{width} pixels out of sight; "
            "choose less than height and width"
        )


if __name__ == "__main__":
    # Flags, data and drawing stay out of what a training run imports.
    from eanet.tools.augment_preview import command

    command()
