"""Exact evaluation: every image once, in microbatches that fit the caches."""

import math
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array

from eanet import devices
from eanet.data.load import Split
from eanet.data.stored import ahead
from eanet.models.functional import Apply
from eanet.training import metrics
from eanet.training.loss import Loss

# Images in one dispatch, at most: seconds of work, so that a signal is answered soon; and their
# bytes, of which a few blocks are in memory at once.
_MOST_IMAGES, _MOST_BYTES = 1024, 2**27


def images_in_block(mesh: Mesh, image_shape: Sequence[int]) -> int:
    """How many images of `uint8[H, W, C]` are evaluated in one dispatch, on all devices."""
    fitting = max(_MOST_BYTES // math.prod(image_shape), 1)
    power = 1 << fitting.bit_length() - 1  # has many divisors to be a microbatch
    return max(min(power, _MOST_IMAGES) // mesh.size, 1) * mesh.size


def make_evaluate(
    apply: Apply,
    loss: Loss,
    mesh: Mesh,
    *,
    normalize: Callable[[Array], Array],
    images_at_once: int,
) -> Callable[..., dict[str, float] | None]:
    """Builds `evaluate(params, examples)` -> loss, accuracy, top5_accuracy over all images.

    Every image counts exactly once: the last block is padded and the padding masked out. Each of
    several processes reads the images for its own devices alone. A third argument, `should_stop`,
    is asked every few seconds; where it says so the result is None. A fourth one, `logits`, is an
    array `[N, classes]` that is filled with those of all images.
    """

    def evaluate_microbatch(params, batch):
        images, labels = batch
        valid = labels >= 0
        labels = jnp.maximum(labels, 0)
        logits = apply(params, normalize(images))
        targets = jax.nn.one_hot(labels, logits.shape[-1])
        values = metrics.of_examples(loss, logits, labels, targets)
        values["examples"] = jnp.ones(len(labels))
        sums = {name: jnp.sum(jnp.where(valid, value, 0.0)) for name, value in values.items()}
        return sums, logits

    @jax.jit
    @partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec(devices.BATCH_AXIS)),
        out_specs=(PartitionSpec(), PartitionSpec(devices.BATCH_AXIS)),
        check_vma=False,
    )
    def evaluate_block(params, batch):
        microbatch = devices.microbatch(mesh, len(batch[1]) * mesh.size, 0, images_at_once)
        parts = jax.tree.map(lambda x: x.reshape(-1, microbatch, *x.shape[1:]), batch)
        sums, logits = jax.lax.map(partial(evaluate_microbatch, params), parts)
        sums = jax.lax.psum(jax.tree.map(partial(jnp.sum, axis=0), sums), devices.BATCH_AXIS)
        return sums, logits.reshape(-1, logits.shape[-1])

    sharding = devices.split_batch(mesh)

    def evaluate(
        params: Any,
        examples: Split,
        should_stop: Callable[[], bool] = lambda: False,
        logits: np.ndarray | None = None,
    ) -> dict[str, float] | None:
        totals: dict[str, float] = {}
        block = images_in_block(mesh, examples.images.shape[1:])
        own = devices.own_part(mesh, block)
        starts = range(0, len(examples), block)
        rows = [slice(start + own.start, start + own.stop) for start in starts]

        def place(part: np.ndarray, padding: int) -> jax.Array:
            if missing := own.stop - own.start - len(part):  # np.pad copies even where it adds none
                widths = [(0, missing), *[(0, 0)] * (part.ndim - 1)]
                part = np.pad(part, widths, constant_values=padding)
            return devices.put_part(part, sharding, (block, *part.shape[1:]))

        with closing(ahead(examples.images, rows, 1)) as parts:
            for start, chosen, images in zip(starts, rows, parts, strict=True):
                if should_stop():
                    return None
                placed = place(images, 0), place(examples.labels[chosen], -1)
                sums, answers = evaluate_block(params, placed)
                for name, value in jax.device_get(sums).items():
                    totals[name] = totals.get(name, 0.0) + float(value)
                if logits is not None:
                    here = logits[start : start + block]
                    here[:] = devices.gather(answers)[: len(here)]
        return metrics.means(totals)

    return evaluate
