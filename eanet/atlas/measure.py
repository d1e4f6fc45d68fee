"""How a block's attention is used over a split: running sums of one pass, never all maps.

The definitions are in docs/atlas.md.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import entr
from jaxtyping import Array, Float, Int

from eanet.data.base import Split
from eanet.inference.model import Model

DEAD = 0.1  # of a uniform share: a unit below is called dead
TWINS = 0.95  # cosine similarity, of keys and of attention: two units above are called twins
PATCHES = 6  # kept for each unit

_BATCH = 256  # images, each of which leaves some thousands of numbers for a block
_TINY = 1e-30  # below any sum that counts


def entropy(a: Float[Array, "b h n s"], axis: int) -> Array:
    """Of the distribution over an axis, as a fraction of its largest; 0 where nothing is there."""
    share = a / jnp.maximum(jnp.sum(a, axis, keepdims=True), _TINY)
    return jnp.sum(entr(share), axis) / max(np.log(a.shape[axis]), _TINY)


def of_images(a: Float[Array, "b h n s"]) -> dict[str, Array]:
    """What is kept of a block's attention A for each image."""
    return {
        "use": jnp.sum(a, 2),
        "tokens": jnp.mean(a, 1),
        "entropy_units": jnp.mean(entropy(a, 3), 2),
        "entropy_tokens": entropy(a, 2),
        "products": jnp.einsum("bhns,bhnt->bst", a, a),
    }


@dataclass
class UnitSums:
    """Sums over the images of a split for one block, and its best patches so far."""

    images: Int[np.ndarray, "classes"]  # how many of each class
    sums: dict[str, np.ndarray] = field(default_factory=dict)
    best: tuple[Any, ...] = ()  # scores, images and tokens, each [k, S], best first

    def add(self, kept: dict[str, np.ndarray], labels: Int[np.ndarray, "b"], first: int) -> None:
        """Takes what `of_images` gives for images `first`, `first + 1`, … of the split."""
        by_class = np.zeros((len(self.images), kept["tokens"].shape[2]))
        np.add.at(by_class, labels, kept["tokens"].mean(1, dtype=np.float64))
        new = {name: value.sum(0, dtype=np.float64) for name, value in kept.items()}
        for name, value in (new | {"classes": by_class}).items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        tokens = kept["tokens"].argmax(1)
        scores = np.take_along_axis(kept["tokens"], tokens[:, None], 1)[:, 0]
        images = np.broadcast_to(np.arange(first, first + len(tokens))[:, None], tokens.shape)
        found: tuple[Any, ...] = scores, images, tokens
        if self.best:
            found = tuple(map(np.concatenate, zip(self.best, found, strict=True)))
        order = np.argsort(-found[0], axis=0, kind="stable")[:PATCHES]  # of equals the earlier
        self.best = tuple(np.take_along_axis(each, order, 0) for each in found)

    def result(self, keys: Float[np.ndarray, "h s"]) -> dict[str, Any]:
        """The measures of the block by name, S units first; see docs/atlas.md.

        `keys` are those of the memory.
        """
        count, use = self.images.sum(), self.sums["use"]
        share = use.sum(0) / max(use.sum(), _TINY)
        units = len(share)
        key_similarity = cosine(keys.T @ keys)
        similarity = cosine(self.sums["products"])
        alike = np.triu((key_similarity > TWINS) & (similarity > TWINS), 1)
        with np.errstate(invalid="ignore", divide="ignore"):  # no image of a class; nothing used
            mean = self.sums["tokens"].mean(0) / count
            classes = (self.sums["classes"] / self.images[:, None] / mean).T
            positions = (self.sums["tokens"] / count / mean).T
        scores, images, tokens = self.best
        return {
            "share": share,
            "share_by_head": use / np.maximum(use.sum(1, keepdims=True), _TINY),
            "effective_units": float(np.exp(entr_sum(share))),
            "entropy_over_units": self.sums["entropy_units"] / count,
            "entropy_over_tokens": self.sums["entropy_tokens"].mean(0) / count,
            "dead": np.flatnonzero(share < DEAD / units),
            "twins": np.argwhere(alike),
            "key_similarity": key_similarity,
            "attention_similarity": similarity,
            "classes": classes,
            "positions": positions,
            "patches": {"score": scores.T, "image": images.T, "token": tokens.T},
        }


def entr_sum(share: Float[np.ndarray, "s"]) -> float:
    """The entropy of a distribution, in nats."""
    some = share[share > 0]
    return float(-np.sum(some * np.log(some)))


def cosine(products: Float[np.ndarray, "s s"]) -> Float[np.ndarray, "s s"]:
    """Cosine similarities from all scalar products; 0 with a vector of zeros."""
    length = np.sqrt(np.diag(products))
    return products / np.maximum(np.outer(length, length), _TINY)


def units(model: Model, examples: Split, progress: Callable[[int], object]) -> list[dict[str, Any]]:
    """Measures of every block with external attention over a split; `progress` takes images."""
    images = np.bincount(examples.labels, minlength=len(model.class_names))
    keys = np.asarray(model.params["blocks"]["attention"]["key_memory"], np.float64)
    blocks = [UnitSums(images) for _ in keys]

    def kept(module: Any, x: Array) -> list[dict[str, Array]]:
        return [of_images(a) for a in module.attention_maps(x)]

    for first, labels, values in _batches(model.compiled(kept), examples, progress):
        for block, value in zip(blocks, values, strict=True):
            block.add(value, labels, first)
    return [block.result(key) for block, key in zip(blocks, keys, strict=True)]


def rollout(maps: list[Float[Array, "b h n n"]]) -> list[Float[Array, "b n n"]]:
    """Attention rollout (Abnar and Zuidema, arXiv 2005.00928) up to each block.

    Row i says how much of token i comes from each patch, were only attention and the residual
    connections mixing them: the product of (mean over heads of A + I) / 2.
    """
    results: list[Array] = []
    for a in maps:
        mixing = (jnp.mean(a, 1) + jnp.eye(a.shape[2])[None]) / 2
        results.append(mixing @ results[-1] if results else mixing)
    return results


def tokens(
    model: Model, examples: Split, progress: Callable[[int], object]
) -> list[dict[str, Any]]:
    """Measures of every block with self-attention over a split; `progress` takes images."""

    def kept(module: Any, x: Array) -> list[dict[str, Array]]:
        maps = module.attention_maps(x)
        return [
            {
                "entropy_over_tokens": jnp.mean(entropy(a, 3), 2),
                "own_token": jnp.mean(jnp.diagonal(a, axis1=2, axis2=3), 2),
                "rollout": jnp.mean(r, 1),
            }
            for a, r in zip(maps, rollout(maps), strict=True)
        ]

    totals: list[dict[str, Any]] = [{} for _ in range(model.config.model.depth)]
    for _, _, values in _batches(model.compiled(kept), examples, progress):
        for total, value in zip(totals, values, strict=True):
            for name, each in value.items():
                total[name] = total.get(name, 0.0) + each.sum(0, dtype=np.float64)
    return [{name: sums / len(examples) for name, sums in total.items()} for total in totals]


def _batches(
    call: Callable[[np.ndarray], Any], examples: Split, progress: Callable[[int], object]
) -> Iterator[tuple[int, np.ndarray, Any]]:
    for first in range(0, len(examples), _BATCH):
        part = examples[first : first + _BATCH]
        yield first, part.labels, call(part.images)
        progress(first + len(part))
