"""Learning rates of parts of the model, for a start from weights that exist."""

import functools
import re
from fnmatch import fnmatchcase
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eanet.errors import UserError

# The blocks are one stack of each parameter, whose name has no index.
_OF_BLOCKS = re.compile(r"blocks/([\d*?![\]-]*\d[\d*?![\]-]*)/(.+)")


def frozen(patterns: str, params: Any, depth: int) -> Any:
    """A tree like the parameters: where a name matches one of the patterns.

    Each leaf is a boolean or, where patterns are of single blocks, one for each block.

    Args:
      patterns: separated by commas, as "patch_embed/*,blocks/*"; a star stands for any letters.
        "blocks/0/*" and "blocks/[0-3]/mlp/*" are of single blocks, numbered from 0.
      params: a nested dict; its leaves do not matter.
      depth: the number of blocks.

    Raises:
      UserError: a pattern matches nothing, or all is frozen.
    """
    wanted = [pattern.strip() for pattern in patterns.split(",")]
    if ranges := [pattern for pattern in wanted if re.search(r"\[[^]]*-\d\d", pattern)]:
        raise UserError(
            f"optimizer.freeze={ranges[0]!r}: a range in brackets is of single digits; write "
            "blocks/[0-9]/*,blocks/1[0-1]/* for the blocks from 0 to 11"
        )
    names = [_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    for pattern in wanted:
        if not any(np.any(_matches(pattern, name, depth)) for name in names):
            raise UserError(
                f"optimizer.freeze={pattern!r} matches no parameter; there are {', '.join(names)}, "
                f"and in place of blocks/ also blocks/0/ to blocks/{depth - 1}/ of one block"
            )

    def one(path: Any, _: Any) -> np.ndarray:
        found = (_matches(pattern, _name(path), depth) for pattern in wanted)
        return np.asarray(functools.reduce(np.logical_or, found))

    mask = jax.tree_util.tree_map_with_path(one, params)
    if all(masked.all() for masked in jax.tree.leaves(mask)):
        raise UserError(f"optimizer.freeze={patterns!r} leaves nothing to train")
    return mask


def _matches(pattern: str, name: str, depth: int) -> bool | np.ndarray:
    """Whether a pattern matches a parameter, or in which blocks."""
    of_blocks = _OF_BLOCKS.fullmatch(pattern)
    if not of_blocks or not name.startswith("blocks/"):
        return fnmatchcase(name, pattern)
    blocks, rest = of_blocks.groups()
    in_block = fnmatchcase(name.removeprefix("blocks/"), rest)
    return np.array([in_block and fnmatchcase(str(block), blocks) for block in range(depth)])


def zero(mask: Any) -> optax.GradientTransformation:
    """Zero in place of gradients or updates where the mask, of `frozen`, is true."""

    def one(masked: np.ndarray, update: jax.Array) -> jax.Array:
        if not masked.any():
            return update
        if masked.all():
            return jnp.zeros_like(update)
        return jnp.where(masked.reshape(-1, *[1] * (update.ndim - 1)), 0, update)

    return optax.stateless(lambda updates, _: jax.tree.map(one, mask, updates))


def by_layer(head: float, decay: float) -> optax.GradientTransformation:
    """Multiplies updates by `decay` once for each layer above, and those of the head by `head`.

    Of L blocks the last has `decay`, the first `decay`^L and the stem `decay`^(L + 1), as in BEiT
    (arXiv 2106.08254); what stands behind the blocks has 1.
    """

    def scale(updates: Any, _: Any) -> Any:
        depth = len(jax.tree.leaves(updates["blocks"])[0])

        def one(path: Any, update: jax.Array) -> jax.Array:
            part = path[0].key
            if part == "blocks":
                factors = decay ** jnp.arange(depth, 0, -1, dtype=update.dtype)
                return update * factors.reshape(-1, *[1] * (update.ndim - 1))
            return update * {"head": head, "patch_embed": decay ** (depth + 1)}.get(part, 1.0)

        return jax.tree_util.tree_map_with_path(one, updates)

    return optax.stateless(scale)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
