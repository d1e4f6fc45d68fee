"""The train state, and many training steps in one dispatch."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array

from eanet import devices, precision
from eanet.models.functional import Apply
from eanet.training import metrics
from eanet.training.batches import Prepare
from eanet.training.loss import Loss


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that training changes, as one pytree; randomness is a function of seed and step.

    Its leaves are arrays, or in their place shapes or shardings.
    """

    step: Any  # int32 scalar, the number of finished steps
    skipped: Any  # int32 scalar, how many of them were not finite and left the parameters alone
    params: Any  # nested dict
    opt_state: Any  # of optax
    ema: Any  # moving average of the parameters, or None
    sums: dict[str, Any]  # float32 scalars since the last report, see `metrics.means`

    @property
    def eval_params(self) -> Any:
        """The parameters to evaluate: the average where there is one."""
        return self.params if self.ema is None else self.ema


def init_state(params: Any, optimizer: optax.GradientTransformation, *, ema: bool) -> TrainState:
    """The state before the first step."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        skipped=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        ema=jax.tree.map(jnp.copy, params) if ema else None,
        sums=metrics.zero_sums(),
    )


def make_batch_loss(apply: Apply, loss: Loss, batch_size: int) -> Callable[..., Any]:
    """Builds `batch_loss(params, images, targets, rngs)` -> the mean loss of a batch, and its sums.

    Given a part of the batch it gives that part's share of the mean.
    """

    def batch_loss(params, images, targets, rngs):
        logits = apply(params, images, rngs)
        labels = jnp.argmax(targets, axis=-1)
        values = metrics.of_examples(loss, logits, labels, targets)
        sums = {name: jnp.sum(value) for name, value in values.items()}
        return sums["loss"] / batch_size, sums

    return batch_loss


def make_gradients(loss: Callable[..., Any], mesh: Mesh, microbatch: int) -> Callable[..., Any]:
    """Builds `gradients(params, batch)` -> gradient and sums of a whole batch.

    The batch, a tuple of arrays, is split over the devices of the mesh and, on each, into
    microbatches of `microbatch` images, whose gradients are summed.
    """
    gradient = jax.grad(loss, has_aux=True)

    def add_microbatch(total, part, params):
        return jax.tree.map(jnp.add, total, gradient(params, *part)), None

    @partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec(devices.BATCH_AXIS)),
        out_specs=PartitionSpec(),
        check_vma=False,
    )
    def gradients(params, batch):
        microbatches = jax.tree.map(lambda x: x.reshape(-1, microbatch, *x.shape[1:]), batch)
        shapes = jax.eval_shape(gradient, params, *(x[0] for x in microbatches))
        total = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        total, _ = jax.lax.scan(partial(add_microbatch, params=params), total, microbatches)
        return jax.lax.psum(total, devices.BATCH_AXIS)

    return gradients


def make_train_steps(
    apply: Apply,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    prepare: Prepare,
    *,
    batch_size: int,
    microbatch: int,
    ema_decay: float = 0.0,
    nonfinite_limit: int = 0,
    matmul_precision: str = "",
) -> Callable[..., tuple[TrainState, dict[str, Array], Array]]:
    """Builds `train_steps(state, images, labels, order, seed, first, start, count)`, jitted.

    It runs the steps `first`, ..., `first + count - 1` in one dispatch; the first takes the
    examples `order[start:][:batch_size]`, the next those that follow. Where `order` is None,
    images and labels are batches themselves, `[steps, batch_size, ...]`, and the first step takes
    `images[start]`. A device takes `microbatch` of them through the model at once. Returned are the
    new state (the old one is donated), and copies of its sums and of its step. The result does not
    depend on how the steps are divided into dispatches, nor on where the examples lie.

    A step whose loss or gradient is not finite leaves everything as it was but the counters, up to
    `nonfinite_limit` times. Beyond that it is not taken at all: the state stays as it was before
    this step, in this dispatch and in those that follow. `matmul_precision` is of
    `eanet.precision`.
    """
    gradients = make_gradients(make_batch_loss(apply, loss, batch_size), mesh, microbatch)
    sharding = devices.split_batch(mesh)

    def update(state, gradient, sums):
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(
            step=state.step + 1,
            skipped=state.skipped,
            params=params,
            opt_state=opt_state,
            ema=_average(state.ema, params, state.step, ema_decay),
            sums=jax.tree.map(jnp.add, state.sums, sums),
        )

    def skip(state, gradient, sums):
        del gradient, sums
        count = (state.skipped < nonfinite_limit).astype(jnp.int32)
        return dataclasses.replace(state, step=state.step + count, skipped=state.skipped + count)

    def train_step(state, seed, images, labels):
        batch = prepare(seed, state.step, images, labels)
        gradient, sums = gradients(state.params, batch)
        sums |= metrics.of_step(batch_size, optax.tree.norm(gradient))
        finite = jnp.isfinite(sums["loss"]) & jnp.isfinite(sums["grad_norm"])
        return jax.lax.cond(finite, update, skip, state, gradient, sums)

    @partial(jax.jit, donate_argnums=0)
    @partial(precision.at, matmul_precision)
    def train_steps(state, images, labels, order, seed, first, start, count):
        def is_next(carry):
            done, state = carry
            return (done < count) & (state.step == first + done)  # a step not taken ends the loop

        def body(carry):
            done, state = carry
            if order is None:
                index = start + done
            else:
                index = jax.lax.dynamic_slice(order, (start + done * batch_size,), (batch_size,))
                index = jax.lax.with_sharding_constraint(index, sharding)
            return done + 1, train_step(state, seed, images[index], labels[index])

        _, state = jax.lax.while_loop(is_next, body, (0, state))
        return state, jax.tree.map(jnp.copy, state.sums), jnp.copy(state.step)

    return train_steps


def _average(ema: Any, params: Any, step: Array, decay: float) -> Any:
    """Exponential moving average whose horizon grows with the step, up to `1 / (1 − decay)`."""
    if ema is None:
        return None
    keep = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda old, new: keep * old + (1.0 - keep) * new, ema, params)
