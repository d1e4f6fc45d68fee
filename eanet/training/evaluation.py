"""Exact evaluation: every image once, in microbatches that fit the caches."""

from collections.abc import Callable
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

# Images in one dispatch: seconds of work, so that a signal is answered soon.
_BLOCK = 1024


def make_evaluate(
    apply: Apply,
    loss: Loss,
    mesh: Mesh,
    *,
    normalize: Callable[[Array], Array],
    images_at_once: int,
) -> Callable[..., dict[str, float] | None]:
    """Builds `evaluate(params, examples)` -> loss, accuracy, top5_accuracy over all images.

    Every image counts exactly once: the last block is padded and the padding masked out. A third
    argument, `should_stop`, is asked every few seconds; where it says so the result is None. A
    fourth one, `logits`, is an array `[N, classes]` that is filled with those of the images.
    """
    block = _BLOCK // mesh.size * mesh.size
    microbatch = devices.microbatch(mesh, block, 0, images_at_once)

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
        blocks = [slice(start, start + block) for start in range(0, len(examples), block)]
        with closing(ahead(examples.images, blocks, 1)) as parts:
            for chosen, part in zip(blocks, parts, strict=True):
                if should_stop():
                    return None
                missing = block - len(part)
                images = np.pad(part, [(0, missing), (0, 0), (0, 0), (0, 0)])
                labels = np.pad(examples.labels[chosen], (0, missing), constant_values=-1)
                placed = devices.put((images, labels), sharding)
                sums, answers = evaluate_block(params, placed)
                for name, value in jax.device_get(sums).items():
                    totals[name] = totals.get(name, 0.0) + float(value)
                if logits is not None:
                    logits[chosen] = devices.gather(answers)[: len(part)]
        return metrics.means(totals)

    return evaluate
