"""The train state, the loss, many training steps in one dispatch, and exact evaluation."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from eanet import devices
from eanet.augment import augment
from eanet.data import Split
from eanet.layers import Kernel
from eanet.random_bits import random_key

# Purposes of a step's random key, and of the seed.
_AUGMENT, _DROPOUT = 0, 1
_INIT, _STEPS, _ORDER = 0, 1, 2

# Images in one dispatch of the evaluation: seconds of work, so that a signal is answered soon.
_EVALUATION_BLOCK = 1024


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["step", "params", "opt_state", "ema", "sums"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that training changes, as one pytree; randomness is a function of seed and step.

    Its leaves are arrays, or in their place shapes or shardings.

    Attributes:
      step: int32 scalar, the number of finished steps.
      params: nested dict of parameters.
      opt_state: of optax.
      ema: moving average of the parameters, or None.
      sums: float32 scalars summed over the steps since the last report, see `means`.
    """

    step: Any
    params: Any
    opt_state: Any
    ema: Any
    sums: dict[str, Any]

    @property
    def eval_params(self) -> Any:
        """The parameters to evaluate: the average where there is one."""
        return self.params if self.ema is None else self.ema


Apply = Callable[..., Float[Array, "b classes"]]


@dataclasses.dataclass(frozen=True)
class SplitModel:
    """A model taken apart into pure functions and trees of one form.

    Attributes:
      abstract: the module with shapes in place of values.
      apply: `apply(params, images, keys=None)` gives logits.
      init: `init()` gives the initial parameters, a nested dict.
      kernels: a tree like the parameters, true for the kernels of linear maps.
    """

    abstract: Any
    apply: Apply
    init: Callable[[], Any]
    kernels: Any


def split_model(build: Callable[[], nnx.Module]) -> SplitModel:
    """Splits the model that `build()` makes; nothing is computed before `init`."""
    abstract = nnx.eval_shape(build)
    graphdef, state = nnx.split(abstract)

    def apply(params: Any, images: Array, keys: Array | None = None) -> Array:
        return nnx.merge(graphdef, nnx.State(params))(images, keys=keys)

    def is_variable(leaf: Any) -> bool:
        return isinstance(leaf, nnx.Variable)

    kernels = jax.tree.map(lambda leaf: isinstance(leaf, Kernel), state, is_leaf=is_variable)
    return SplitModel(
        abstract=abstract,
        apply=apply,
        init=lambda: nnx.to_pure_dict(nnx.state(build())),
        kernels=nnx.to_pure_dict(kernels),
    )


def zero_sums() -> dict[str, Float[Array, ""]]:
    """The sums of a state before its first step or after a report."""
    names = ("loss", "accuracy", "top5_accuracy", "examples", "grad_norm", "steps")
    return {name: jnp.zeros((), jnp.float32) for name in names}


def init_state(params: Any, optimizer: optax.GradientTransformation, *, ema: bool) -> TrainState:
    """The state before the first step."""
    average = jax.tree.map(jnp.copy, params) if ema else None
    return TrainState(
        jnp.zeros((), jnp.int32), params, optimizer.init(params), average, zero_sums()
    )


def means(sums: Mapping[str, Any]) -> dict[str, float]:
    """Averages over examples (loss, accuracies) and steps (grad_norm) from their sums."""
    host = {name: float(value) for name, value in jax.device_get(dict(sums)).items()}
    examples, steps = host.pop("examples"), host.pop("steps", 0.0)
    result = {name: value / max(examples, 1.0) for name, value in host.items()}
    if "grad_norm" in host:
        result["grad_norm"] = host["grad_norm"] / max(steps, 1.0)
    return result


def cross_entropy(
    logits: Float[Array, "b classes"], targets: Float[Array, "b classes"], smoothing: float
) -> Float[Array, "b"]:
    """Cross-entropy in nats against `(1 − smoothing)·targets + smoothing / classes`."""
    smoothed = (1.0 - smoothing) * targets + smoothing / logits.shape[-1]
    return -jnp.sum(smoothed * jax.nn.log_softmax(logits), axis=-1)


def hits(logits: Float[Array, "b classes"], labels: Int[Array, "b"], k: int) -> Float[Array, "b"]:
    """1 where the label is among the k largest logits (ties: lower class first), else 0."""
    own = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    classes = jnp.arange(logits.shape[-1])[None, :]
    before = (logits > own) | ((logits == own) & (classes < labels[:, None]))
    return ((jnp.sum(before, axis=-1) < k) & jnp.isfinite(own[:, 0])).astype(jnp.float32)


def normalizer(mean: np.ndarray, std: np.ndarray) -> Callable[[Array], Array]:
    """Maps uint8 images `[B, H, W, C]` to float32 of zero mean and unit deviation per channel."""
    mean, std = mean[None, None, None, :], std[None, None, None, :]
    return lambda images: (images.astype(jnp.float32) - mean) / std


def epoch_order(
    seed: int, epoch: int, num_examples: int, batch_size: int
) -> Int[Array, "{num_examples}+{batch_size}"]:
    """The indices of an epoch's examples, then those of the batch that reaches into the next.

    A function of seed and epoch alone: every example once an epoch, none left out where the batch
    size does not divide the number of examples.
    """
    orders = [_permutation(seed, epoch + i, num_examples) for i in range(2)]
    return jnp.concatenate([orders[0], orders[1][:batch_size]])


@partial(jax.jit, static_argnums=(0, 2))
def _permutation(
    seed: int, epoch: Int[Array, ""], num_examples: int
) -> Int[Array, "{num_examples}"]:
    key = jax.random.fold_in(jax.random.key(seed), _ORDER)
    return jax.random.permutation(jax.random.fold_in(key, epoch), num_examples)


def make_train_steps(
    apply: Apply,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    *,
    num_classes: int,
    batch_size: int,
    microbatch_size: int,
    normalize: Callable[[Array], Array],
    augmentation: Mapping[str, Any],
    label_smoothing: float,
    ema_decay: float,
    seed: int,
    random_bits: str,
) -> Callable[..., tuple[TrainState, dict[str, Array]]]:
    """Builds `train_steps(state, images, labels, order, start, count)`, jitted, state donated.

    It runs `count` steps in one dispatch and returns the new state and its sums. Step i of them
    takes the examples `order[start + i·batch_size:][:batch_size]`. The result does not depend on
    how the steps are divided into dispatches.

    The batch is split over the devices of the mesh and, on each, into passes of
    `devices.images_per_pass` images, whose gradients are summed.
    """
    pass_size = devices.images_per_pass(mesh, batch_size, microbatch_size)
    base_key = jax.random.fold_in(random_key(seed, random_bits), _STEPS)

    def loss(params, images, targets, keys):
        logits = apply(params, images, keys)
        losses = cross_entropy(logits, targets, label_smoothing)
        labels = jnp.argmax(targets, axis=-1)
        sums = {
            "loss": jnp.sum(losses),
            "accuracy": jnp.sum(hits(logits, labels, 1)),
            "top5_accuracy": jnp.sum(hits(logits, labels, 5)),
        }
        return sums["loss"] / batch_size, sums

    def add_pass(total, batch, params):
        gradient, sums = jax.grad(loss, has_aux=True)(params, *batch)
        return jax.tree.map(jnp.add, total, (gradient, sums)), None

    @partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec(devices.BATCH_AXIS)),
        out_specs=PartitionSpec(),
        check_vma=False,
    )
    def gradients(params, batch):
        passes = jax.tree.map(lambda x: x.reshape(-1, pass_size, *x.shape[1:]), batch)
        shapes = jax.eval_shape(jax.grad(loss, has_aux=True), params, *(x[0] for x in passes))
        total = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        total, _ = jax.lax.scan(partial(add_pass, params=params), total, passes)
        return jax.lax.psum(total, devices.BATCH_AXIS)

    def train_step(state, images, labels):
        key = jax.random.fold_in(base_key, state.step)
        targets = jax.nn.one_hot(labels, num_classes)
        images, targets = augment(
            jax.random.fold_in(key, _AUGMENT), normalize(images), targets, **augmentation
        )
        keys = jax.random.split(jax.random.fold_in(key, _DROPOUT), batch_size)
        gradient, sums = gradients(state.params, (images, targets, keys))
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        sums |= {"examples": jnp.float32(batch_size), "steps": jnp.float32(1)}
        sums["grad_norm"] = optax.tree.norm(gradient)
        return TrainState(
            step=state.step + 1,
            params=params,
            opt_state=opt_state,
            ema=_average(state.ema, params, state.step, ema_decay),
            sums=jax.tree.map(jnp.add, state.sums, sums),
        )

    sharding = devices.split_batch(mesh)

    @partial(jax.jit, donate_argnums=0)
    def train_steps(state, images, labels, order, start, count):
        def body(i, state):
            index = jax.lax.dynamic_slice(order, (start + i * batch_size,), (batch_size,))
            index = jax.lax.with_sharding_constraint(index, sharding)
            return train_step(state, images[index], labels[index])

        # The number of steps is no constant of the program: one compilation serves all.
        state = jax.lax.fori_loop(0, count, body, state)
        return state, jax.tree.map(jnp.copy, state.sums)

    return train_steps


def _average(ema: Any, params: Any, step: Array, decay: float) -> Any:
    """Exponential moving average whose horizon grows with the step, up to `1 / (1 − decay)`."""
    if ema is None:
        return None
    keep = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda old, new: keep * old + (1.0 - keep) * new, ema, params)


def make_evaluate(
    apply: Apply,
    mesh: Mesh,
    *,
    normalize: Callable[[Array], Array],
    label_smoothing: float,
    microbatch_size: int = 0,
) -> Callable[[Any, Split], dict[str, float]]:
    """Builds `evaluate(params, examples)` -> loss, accuracy, top5_accuracy over all images.

    Every image counts exactly once: the last block is padded and the padding masked out.
    """
    block = _EVALUATION_BLOCK // mesh.size * mesh.size
    pass_size = devices.images_per_pass(mesh, block, microbatch_size)

    def pass_sums(params, batch):
        images, labels = batch
        valid = labels >= 0
        labels = jnp.maximum(labels, 0)
        logits = apply(params, normalize(images))
        targets = jax.nn.one_hot(labels, logits.shape[-1])
        values = {
            "loss": cross_entropy(logits, targets, label_smoothing),
            "accuracy": hits(logits, labels, 1),
            "top5_accuracy": hits(logits, labels, 5),
            "examples": jnp.ones(len(labels)),
        }
        return {name: jnp.sum(jnp.where(valid, value, 0.0)) for name, value in values.items()}

    @jax.jit
    @partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(
            PartitionSpec(),
            PartitionSpec(devices.BATCH_AXIS),
            PartitionSpec(devices.BATCH_AXIS),
        ),
        out_specs=PartitionSpec(),
        check_vma=False,
    )
    def block_sums(params, images, labels):
        passes = jax.tree.map(lambda x: x.reshape(-1, pass_size, *x.shape[1:]), (images, labels))
        sums = jax.lax.map(partial(pass_sums, params), passes)
        return jax.lax.psum(jax.tree.map(partial(jnp.sum, axis=0), sums), devices.BATCH_AXIS)

    sharding = devices.split_batch(mesh)

    def evaluate(params: Any, examples: Split) -> dict[str, float]:
        images, labels = examples.images, examples.labels
        totals: dict[str, float] = {}
        for start in range(0, len(images), block):
            part, part_labels = images[start : start + block], labels[start : start + block]
            missing = block - len(part)
            part = np.pad(part, [(0, missing)] + [(0, 0)] * (part.ndim - 1))
            part_labels = np.pad(part_labels, (0, missing), constant_values=-1)
            placed = jax.device_put((part, part_labels), sharding)
            for name, value in jax.device_get(block_sums(params, *placed)).items():
                totals[name] = totals.get(name, 0.0) + float(value)
        return means(totals)

    return evaluate
