"""How examples are divided into parts, and the statistics of one."""

import numpy as np

from eanet import rules
from eanet.data.base import Images, Split
from eanet.errors import UserError

RULES: dict[str, rules.Rule] = {
    "val_fraction": rules.Number(0, 1, below=True),
    "val_split": rules.Choice("last", "random"),
    "test_fraction": rules.Number(0, 1, above=True, below=True),
}


def split_validation(train: Split, fraction: float, how: str, seed: int) -> tuple[Split, Split]:
    """Divides `train` into a training and a validation part.

    `floor(N * (1 - fraction))` examples are left for training, in their order. The others are the
    unshuffled tail where `how` is "last", as `validation_split` of Keras takes it (nothing is
    copied); where it is "random" they are drawn by `seed`, each class in proportion.

    Raises:
        UserError: an unknown `how`, a fraction not in `0 <= fraction < 1`, or none left to train.
    """
    rules.check(RULES, {"val_fraction": fraction, "val_split": how}, "dataset.")
    kept = int(len(train) * (1 - fraction))
    if kept == 0:
        raise UserError(
            f"dataset.val_fraction={fraction} leaves none of {len(train)} examples for training"
        )
    if how == "last" or kept == len(train):
        return train[:kept], train[kept:]
    chosen = stratified_choice(train.labels, len(train) - kept, seed)
    return train[~chosen], train[chosen]


def split_test(train: Split, fraction: float) -> tuple[Split, Split]:
    """Divides a source that has no test split: some of each class, see `held_out_count`.

    The draw is a fixed one, so that all seeds of a config are tested on the same images. Both parts
    keep their order. Images in an array are moved within it, and the parts are views of it: it may
    be so large that memory holds no copy.
    """
    order = np.random.default_rng(0).permutation(len(train))
    chosen = np.zeros(len(train), bool)
    for label, size in enumerate(np.bincount(train.labels)):
        chosen[order[train.labels[order] == label][: held_out_count(size, fraction)]] = True
    if not isinstance(train.images, np.ndarray):
        return train[~chosen], train[chosen]
    _rearrange(train.images, np.argsort(chosen, kind="stable"))
    kept = int((~chosen).sum())
    return (
        Split(train.images[:kept], train.labels[~chosen]),
        Split(train.images[kept:], train.labels[chosen]),
    )


def _rearrange(images: np.ndarray, order: np.ndarray) -> None:
    """Makes of an array `images[order]`, in its place: along each cycle, with one image aside."""
    moved = np.zeros(len(order), bool)
    for start in range(len(order)):
        if moved[start] or order[start] == start:
            continue
        aside, place = images[start].copy(), start
        while (source := int(order[place])) != start:
            images[place] = images[source]
            moved[place], place = True, source
        images[place] = aside
        moved[place] = True


def held_out_count(size: int, fraction: float) -> int:
    """How many images of a class of this size are tested on: at least one, and never all."""
    return max(0, min(max(1, round(size * fraction)), size - 1))


def stratified_choice(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """`bool[N]`, true for exactly `count` examples, each class in proportion to its size.

    A class gets its proportional share rounded down; the examples then missing go one each to
    the classes with the largest remainders. A function of the arguments alone.
    """
    sizes = np.bincount(labels)
    share, remainder = np.divmod(sizes * count, len(labels))
    share[np.argsort(-remainder, kind="stable")[: count - share.sum()]] += 1
    order = np.random.default_rng(seed).permutation(len(labels))
    chosen = np.zeros(len(labels), bool)
    for label, number in enumerate(share):
        chosen[order[labels[order] == label][:number]] = True
    return chosen


def balanced_weights(labels: np.ndarray, classes: int) -> np.ndarray:
    """`float32[classes]`: `n / (k · n_c)` of n examples, n_c of the class, k classes that occur.

    So each of these weighs as much as any other, and the mean over all examples is one. A class
    without examples has none.
    """
    counts = np.bincount(labels, minlength=classes)
    weights = len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return np.where(counts > 0, weights, 0.0).astype(np.float32)


def channel_statistics(images: Images) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation per channel of images `uint8[N, H, W, C]`, each `float32[C]`.

    The sums are exact integers. A deviation below one grey level counts as one, so that a
    constant channel can be divided by it.
    """
    survey = getattr(images, "survey", None)  # of stored images
    if survey is not None:
        total, squares = survey["sums"].sum(axis=0)
    else:
        total, squares = _channel_sums(np.asarray(images))
    count = images.nbytes // images.shape[-1]
    mean = total / count
    variance = squares / count - mean**2
    return mean.astype(np.float32), np.sqrt(np.maximum(variance, 1.0)).astype(np.float32)


def _channel_sums(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Those of the values and of their squares, `uint64[C]`."""
    channels = images.shape[-1]
    flat = images.reshape(len(images), -1)
    # Few enough rows that uint32 holds the sums of squares, and small enough for the cache.
    rows = int(np.clip(2**22 // flat.shape[1], 1, 2**16))
    total, total_squares = np.zeros((2, flat.shape[1]), np.uint64)
    for start in range(0, len(flat), rows):
        chunk = flat[start : start + rows]
        total += chunk.sum(axis=0, dtype=np.uint32)
        total_squares += np.square(chunk, dtype=np.uint16).sum(axis=0, dtype=np.uint32)
    return total.reshape(-1, channels).sum(axis=0), total_squares.reshape(-1, channels).sum(axis=0)
