"""Fewer memory units in external attention: the nearest are merged.

With the names of `eanet.models.attention`, in one block, whose heads share the memory. The nearest
two units are those whose keys, columns of `M_k`, have the largest cosine similarity. They are
merged, again and again, until S' of S units are left. One that stands for m units of mass w has

    key  k = sum w k / sum w,      value  v = sum w v / sum w

which are those of its units where they are equal. Where only the keys differ, what the units give
together is right to first order in that, but for how much such a unit weighs. The norm decides it:

- "none", "softmax_tokens": `Y` is a sum over the units. So w = 1, and the value becomes the sum,
  `m v`. Equal units merge exactly.
- "softmax_memory": a unit weighs exp(b_k). So that is w, and the bias becomes log(sum w). Units of
  equal keys merge exactly.
- "double": the softmax over the tokens cancels the bias, so no unit can weigh more than another. A
  token read sum(m P v) / sum(m P) over the units that are left, and then reads sum(P u) / sum(P).
  With u = v these are equal where m is the same for all units, where the values are, or where one
  unit has all the attention; no u makes them equal everywhere. (u = m v S'/S is right where a token
  attends to all units alike, but changes the answers of trained models more.) So w = 1, the value
  stays the mean, and what is read a weighted mean of values.

With `norm_groups` a sum is over one group, and units are merged in it.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Memory(NamedTuple):
    """Keys, their bias and values of one block."""

    keys: Float[np.ndarray, "h s"]
    bias: Float[np.ndarray, " s"]
    values: Float[np.ndarray, "s h"]


def merge(memory: Memory, size: int, norm: str, groups: int = 1) -> Memory:
    """A memory of `size` units whose attention is as near as may be; in float64.

    Always the same for the same memory. Of equally near units the first are merged; a merged unit
    has the place of its first. `groups` divides both sizes.
    """
    keys, bias, values = (np.asarray(part, np.float64) for part in memory)
    shape = len(keys), size
    merged = Memory(np.empty(shape), np.empty(size), np.empty(shape[::-1]))
    for group in range(groups):  # of the units that are `group` modulo `groups`
        of = slice(group, None, groups)
        found = _merge(Memory(keys[:, of], bias[of], values[of]), size // groups, norm)
        merged.keys[:, of], merged.bias[of], merged.values[of] = found
    return merged


def _merge(memory: Memory, size: int, norm: str) -> Memory:
    """The same of one group."""
    units = len(memory.bias)
    keys, bias, values = memory.keys.T.copy(), memory.bias.copy(), memory.values.copy()
    # Logarithms, as exp(bias) may overflow.
    mass = bias.copy() if norm == "softmax_memory" else np.zeros(units)
    near = _directions(keys) @ _directions(keys).T
    np.fill_diagonal(near, -np.inf)
    left = np.ones(units, bool)
    for _ in range(units - size):
        first, second = sorted(divmod(int(near.argmax()), units))
        both = np.logaddexp(mass[first], mass[second])
        share = np.exp(mass[first] - both)
        for part in (keys, bias, values):
            part[first] = share * part[first] + (1 - share) * part[second]
        mass[first], left[second] = both, False
        others = left.copy()
        others[first] = False
        now = _directions(keys) @ _directions(keys[first])
        near[first] = near[:, first] = np.where(others, now, -np.inf)
        near[second] = near[:, second] = -np.inf
    mass, keys, bias, values = mass[left], keys[left].T, bias[left], values[left]
    if norm == "softmax_memory":
        bias = mass
    elif norm in ("none", "softmax_tokens"):
        values = values * np.exp(mass)[:, None]
    return Memory(keys, bias, values)


def _directions(keys: Float[np.ndarray, "*s h"]) -> Float[np.ndarray, "*s h"]:
    """Keys of length one; those of length zero, which are like no other, stay as they are."""
    length = np.linalg.norm(keys, axis=-1, keepdims=True)
    return keys / np.where(length, length, 1.0)
