"""A counter-based random bit generator that fuses into the arithmetic around it.

Dropout of the default model draws 117 million values a step. XLA lowers threefry to a rolled loop
that writes whole arrays between its rounds; here a word is a short integer hash of its position
and the key, so the compiler computes it in registers where it is used.

Keys are made, split and folded by threefry, so streams of different keys are as independent as
JAX's own; only the expansion of one key into many words is the cheap hash. It is meant for dropout
and augmentation, not for cryptography.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import random as jex_random

IMPLEMENTATIONS = ("counter", "threefry2x32")


def random_key(seed: int | np.uint32 | jax.Array, implementation: str = "counter") -> jax.Array:
    """A typed key for `jax.random` and the model's dropout; the lowest 32 bits of the seed count.

    Of the `IMPLEMENTATIONS`, "counter" is the generator of this module.
    """
    impl = _COUNTER if implementation == "counter" else implementation
    return jax.random.key(lowest_word(seed), impl=impl)


def lowest_word(seed: Any) -> Any:
    """The lowest 32 bits of an integer as uint32; a scalar of a jitted function as it is."""
    return np.uint32(seed & 0xFFFFFFFF) if isinstance(seed, int) else seed


def _threefry(key_data: jax.Array) -> jax.Array:
    return jax.random.wrap_key_data(key_data, impl="threefry2x32")


def _seed(seed: jax.Array) -> jax.Array:
    # Not the seed itself: the hash is too weak to part keys that differ in one bit.
    return jax.random.bits(jax.random.key(seed, impl="threefry2x32"), (2,), jnp.uint32)


def _split(key_data: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.key_data(jax.random.split(_threefry(key_data), shape))


def _fold_in(key_data: jax.Array, data: jax.Array | int) -> jax.Array:
    return jax.random.key_data(jax.random.fold_in(_threefry(key_data), data))


def _random_bits(key_data: jax.Array, bit_width: int, shape: tuple[int, ...]) -> jax.Array:
    """Uniform unsigned integers of `bit_width` bits and the given shape; `key_data` uint32 [2]."""
    if bit_width == 64:
        words = _random_bits(key_data, 32, (*shape, 2)).astype(jnp.uint64)
        return (words[..., 0] << 32) | words[..., 1]
    return _hash(_positions(shape), key_data[0], key_data[1]).astype(f"uint{bit_width}")


def _positions(shape: tuple[int, ...], skip: int | None = None) -> jax.Array:
    """The row-major index of every element modulo 2**32, not counting the axis `skip`."""
    position = jnp.zeros(shape, jnp.uint32)
    stride = 1
    for axis in reversed(range(len(shape))):
        if axis != skip:
            index = jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
            position += index * jnp.uint32(stride % 2**32)
            stride *= shape[axis]
    return position


def _hash(position: jax.Array, first: jax.Array, second: jax.Array) -> jax.Array:
    """One random word for each position.

    The position is spread over the word by a Weyl sequence (Knuth's golden ratio) and then mixed
    by a 32-bit bijection of low bias found by search (C. Wellons, hash-prospector). One key word
    starts the sequence, the other enters between the rounds, so that two keys never run through
    one sequence at an offset.
    """
    word = position * jnp.uint32(0x9E3779B9) + first
    word = (word ^ (word >> 16)) * jnp.uint32(0x21F0AAAD)
    word = word ^ second
    word = (word ^ (word >> 15)) * jnp.uint32(0xD35A2D97)
    return word ^ (word >> 15)


def bits_per_example(keys: jax.Array, shape: tuple[int, ...], batch_axis: int) -> jax.Array:
    """Uniform uint32 words of the given shape, those of example i drawn with `keys[i]`.

    Equal to `jax.random.bits` mapped over the keys, for every implementation of keys; written out
    for our own because XLA:CPU does not vectorise the transpose that `jax.vmap` puts in when the
    batch is not the first axis.
    """
    if jax.random.key_impl(keys) != _COUNTER:
        example = shape[:batch_axis] + shape[batch_axis + 1 :]
        draw = jax.vmap(lambda key: jax.random.bits(key, example), out_axes=batch_axis)
        return draw(keys)
    axes = [axis for axis in range(len(shape)) if axis != batch_axis]
    first, second = jnp.moveaxis(jax.random.key_data(keys), -1, 0)
    return _hash(
        _positions(shape, skip=batch_axis),
        jnp.expand_dims(first, axes),
        jnp.expand_dims(second, axes),
    )


_COUNTER = jex_random.define_prng_impl(
    key_shape=(2,),
    seed=_seed,
    split=_split,
    random_bits=_random_bits,
    fold_in=_fold_in,
    name="counter",
    tag="ctr",
)
