"""Random changes of single training images, on the device and inside the jitted step.

Images are floats `[batch, height, width, channels]`, already normalised per channel, so that zero
is the channel's mean over the training set. Nothing is clipped: training and evaluation share one
range of values.

What is drawn at random is kept apart from what is done with it (`rotate`, `zoom`,
`adjust_contrast`, `resized_crop`), so that the latter compares with other implementations for equal
parameters.
"""

import math

import dm_pix
import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float, Key

from eanet.augment.mixing import Images, box_mask
from eanet.errors import UserError

PerImage = Float[Array, "batch"]

# Of the erased box: the least and the greatest part of the image, the greatest ratio of its sides.
ERASED_AREA = (0.02, 0.4)
ERASED_ASPECT = 1 / 0.3
# Of a crop to be resized: the greatest ratio of its sides, and how often to draw one that fits.
CROP_ASPECT = 4 / 3
CROP_ATTEMPTS = 10


def random_flip(key: Key[Array, ""], images: Images) -> Images:
    """Mirrors left and right with probability one half."""
    flipped = jax.random.bernoulli(key, 0.5, images.shape[:1])
    return jnp.where(flipped[:, None, None, None], dm_pix.flip_left_right(images), images)


def random_rotation(key: Key[Array, ""], images: Images, max_turn: float) -> Images:
    """Rotates by an angle uniform in ±`max_turn`, a fraction of a full turn."""
    turns = jax.random.uniform(key, images.shape[:1], minval=-max_turn, maxval=max_turn)
    return rotate(images, turns * (2 * math.pi))


def rotate(images: Images, angles: PerImage) -> Images:
    """Rotates each image by radians counter-clockwise about its centre, bilinear, edges mirrored.

    The function of Keras' `RandomRotation` with `fill_mode="reflect"`: the centre is
    `((height - 1) / 2, (width - 1) / 2)`, a mirror repeats the pixel at the edge.
    """
    rows, columns = _centred_grid(images)
    cos, sin = jnp.cos(angles)[:, None, None], jnp.sin(angles)[:, None, None]
    return _sample(images, cos * rows + sin * columns, cos * columns - sin * rows)


def random_contrast(
    key: Key[Array, ""], images: Images, max_change: float, *, keras3_contrast_clip: bool = False
) -> Images:
    """Multiplies the contrast by a factor uniform in `1 ± max_change`.

    With `keras3_contrast_clip`, clips to [0, 255] as Keras 3 does, which zeroes every normalised
    value below the mean, in training only: a defect, kept to show its effect.
    """
    factors = jax.random.uniform(
        key, images.shape[:1], minval=1.0 - max_change, maxval=1.0 + max_change
    )
    changed = adjust_contrast(images, factors)
    return jnp.clip(changed, 0.0, 255.0) if keras3_contrast_clip else changed


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
    height, width = images.shape[1:3]
    rows, columns = jnp.broadcast_arrays(rows + (height - 1) / 2, columns + (width - 1) / 2)

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


def check_pad_and_crop(pixels: int, image_shape: tuple[int, ...]) -> None:
    """Raises `UserError` where nothing of an image `[height, width, channels]` may remain."""
    height, width, _ = image_shape
    if pixels >= min(height, width):
        raise UserError(
            f"augment.pad_crop={pixels} can move images of {height}x{width} pixels out of sight; "
            "choose less than height and width"
        )


def random_resized_crop(key: Key[Array, ""], images: Images, least_area: float) -> Images:
    """Cuts a random part out of each image and enlarges it to the image's size.

    torchvision's `RandomResizedCrop`, after Szegedy et al. (arXiv 1409.4842): the part has an area
    uniform from `least_area` to 1 and a ratio of its sides uniform on a logarithmic scale from 3/4
    to 4/3. Where none of ten draws fits into the image, it is the largest such part in the centre.
    """
    batch, height, width, _ = images.shape
    area_key, aspect_key, place_key = jax.random.split(key, 3)
    drawn = CROP_ATTEMPTS, batch
    areas = jax.random.uniform(area_key, drawn, minval=least_area, maxval=1.0) * height * width
    most = math.log(CROP_ASPECT)
    root_aspects = jnp.exp(jax.random.uniform(aspect_key, drawn, minval=-most, maxval=most) / 2)
    heights = jnp.round(jnp.sqrt(areas) / root_aspects)
    widths = jnp.round(jnp.sqrt(areas) * root_aspects)
    fits = (heights > 0) & (heights <= height) & (widths > 0) & (widths <= width)
    first, found = jnp.argmax(fits, axis=0)[None, :], jnp.any(fits, axis=0)
    largest = min(height, round(width * CROP_ASPECT)), min(width, round(height * CROP_ASPECT))
    places = jax.random.uniform(place_key, (2, batch))

    def placed(sizes, place, largest, size):
        sizes = jnp.where(found, jnp.take_along_axis(sizes, first, axis=0)[0], largest)
        return jnp.where(found, jnp.floor(place * (size - sizes + 1)), (size - largest) // 2), sizes

    tops, heights = placed(heights, places[0], largest[0], height)
    lefts, widths = placed(widths, places[1], largest[1], width)
    return resized_crop(images, tops, lefts, heights, widths)


def resized_crop(
    images: Images, tops: PerImage, lefts: PerImage, heights: PerImage, widths: PerImage
) -> Images:
    """Enlarges a box of each image to the image's size, bilinear, from the box's pixels alone."""
    rows = _resizing(tops, heights, images.shape[1])
    columns = _resizing(lefts, widths, images.shape[2])
    # Products take a fraction of the time of a gather.
    return jnp.einsum("bij,bjkc,blk->bilc", rows, images, columns, precision="highest")


def _resizing(first: PerImage, count: PerImage, size: int) -> Float[Array, "batch size size"]:
    """Weights of the pixels along a side, `[.., to, from]`, that enlarge `count` of them to all."""
    first, count = first[:, None], count[:, None]
    pixels = jnp.arange(size, dtype=jnp.float32)
    places = first + (pixels + 0.5)[None, :] * count / size - 0.5
    places = jnp.clip(places, first, first + count - 1)
    return jnp.maximum(0.0, 1.0 - jnp.abs(places[:, :, None] - pixels[None, None, :]))


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
