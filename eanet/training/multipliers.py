"""Learning rates of parts of the model, for a start from weights that exist."""

from fnmatch import fnmatchcase
from typing import Any

import jax
import jax.numpy as jnp
import optax

from eanet.errors import UserError


def frozen(patterns: str, params: Any) -> Any:
    """A tree like the parameters, true where a name matches one of the patterns.

    Args:
      patterns: separated by commas, as "patch_embed/*,blocks/*"; a star stands for any letters.
      params: a nested dict; its leaves do not matter.

    Raises:
      UserError: a pattern matches nothing, or all is frozen.
    """
    wanted = [pattern.strip() for pattern in patterns.split(",")]
    names = [_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    for pattern in wanted:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UserError(
                f"optimizer.freeze={pattern!r} matches no parameter; there are {', '.join(names)}"
            )
    mask = jax.tree_util.tree_map_with_path(
        lambda path, _: any(fnmatchcase(_name(path), pattern) for pattern in wanted), params
    )
    if all(jax.tree.leaves(mask)):
        raise UserError(f"optimizer.freeze={patterns!r} leaves nothing to train")
    return mask


def zero(mask: Any) -> optax.GradientTransformation:
    """Zero in place of gradients or updates where the mask is true."""
    return optax.stateless(
        lambda updates, _: jax.tree.map(
            lambda masked, update: jnp.zeros_like(update) if masked else update, mask, updates
        )
    )


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
