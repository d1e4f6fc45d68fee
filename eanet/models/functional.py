"""A Flax module split once into pure functions and trees: what `jax.jit` works on."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float

from eanet.models.layers import Kernel
from eanet.prng import random_key

Apply = Callable[..., Float[Array, "b classes"]]


@dataclasses.dataclass(frozen=True)
class SplitModel:
    """A model taken apart into pure functions and trees of one form."""

    abstract: Any  # the module with shapes in place of values
    merge: Callable[[Any], Any]  # `merge(params)` gives the module with these values
    apply: Apply  # `apply(params, images, rngs=None)` gives logits
    init: Callable[[Any], Any]  # `init(seed)` gives the initial parameters, a nested dict
    # A tree like the parameters: the `axes` of each `Kernel`, which are the last ones in a stack of
    # blocks, and "" for other parameters.
    kernels: Any


def split_model(build: Callable[[nnx.Rngs], nnx.Module]) -> SplitModel:
    """Splits the model that `build(rngs)` makes; nothing is computed before `init`."""

    def build_from(seed: Any) -> nnx.Module:
        return build(nnx.Rngs(random_key(seed)))  # compiles faster than JAX's own generator

    abstract = nnx.eval_shape(partial(build_from, 0))
    graphdef, state = nnx.split(abstract)

    def merge(params: Any) -> Any:
        return nnx.merge(graphdef, nnx.State(params))

    def apply(params: Any, images: Array, rngs: Array | None = None) -> Array:
        return merge(params)(images, rngs=rngs)

    def is_variable(leaf: Any) -> bool:
        return isinstance(leaf, nnx.Variable)

    def axes(variable: nnx.Variable) -> str:
        return variable.axes if isinstance(variable, Kernel) else ""

    kernels = jax.tree.map(axes, state, is_leaf=is_variable)
    return SplitModel(
        abstract=abstract,
        merge=merge,
        apply=apply,
        init=lambda seed: nnx.to_pure_dict(nnx.state(build_from(seed))),
        kernels=nnx.to_pure_dict(kernels),
    )
