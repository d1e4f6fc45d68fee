"""Training examples made of two: mixup and cutmix, for images and targets of a batch at once.

Both take the example before each one as its partner and one weight for the whole batch.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

Images = Float[Array, "batch height width channels"]
Targets = Float[Array, "batch classes"]


def mixup(
    key: Key[Array, ""], images: Images, targets: Targets, alpha: float
) -> tuple[Images, Targets]:
    """Replaces each example by a weighted mean with its neighbour (arXiv 1710.09412).

    The weight is Beta(`alpha`, `alpha`), one for the batch, as in the authors' code; a small
    `alpha`, above 0, keeps most weights near 0 or 1.
    """
    weight = jax.random.beta(key, alpha, alpha)
    return _mix(images, weight), _mix(targets, weight)


def cutmix(
    key: Key[Array, ""], images: Images, targets: Targets, alpha: float
) -> tuple[Images, Targets]:
    """Pastes a box of its neighbour into each example (arXiv 1905.04899).

    The box has the image's proportions and the area `1 - w`, w from Beta(`alpha`, `alpha`), about
    a centre uniform in the image; what sticks out is cut off. One box for the batch; an `alpha`
    of 1 makes all areas equally likely. Targets are weighted by the area that each really has.
    """
    height, width = images.shape[1:3]
    weight_key, place_key = jax.random.split(key)
    half_side = jnp.sqrt(1.0 - jax.random.beta(weight_key, alpha, alpha)) / 2
    row, column = jax.random.uniform(place_key, (2,))
    top, bottom = _cut_edges(row, half_side, height)
    left, right = _cut_edges(column, half_side, width)
    box = box_mask((height, width), top, bottom, left, right)
    pasted = jnp.where(box[None, :, :, None], _neighbours(images), images)
    own_area = 1.0 - (bottom - top) * (right - left) / (height * width)
    return pasted, _mix(targets, own_area)


def _cut_edges(centre: Array, half_side: Array, size: int) -> tuple[Array, Array]:
    """The first pixel of the box and the first behind it; arguments are parts of `size`."""
    first, end = (jnp.round((centre + side) * size) for side in (-half_side, half_side))
    return jnp.clip(first, 0, size), jnp.clip(end, 0, size)


def _mix(examples: Array, own_weight: Float[Array, ""]) -> Array:
    mixed = own_weight * examples + (1.0 - own_weight) * _neighbours(examples)
    return mixed.astype(examples.dtype)


def _neighbours(examples: Array) -> Array:
    """The example before each one. Batches are shuffled already: any partner is a random one.

    With the batch split over devices only one example leaves each device; a permutation would
    have to gather them all.
    """
    return jnp.roll(examples, 1, axis=0)


def box_mask(size: tuple[int, int], top, bottom, left, right) -> Bool[Array, "height width"]:
    """True from `top` up to but without `bottom`, and from `left` without `right`."""
    rows, columns = jnp.arange(size[0])[:, None], jnp.arange(size[1])[None, :]
    return (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
