"""States to be saved, and what is done to their files."""

import dataclasses
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eanet.checkpoints.manager import Checkpoints


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    step: jax.Array
    params: dict
    opt_state: optax.OptState
    ema: dict | None
    metrics: dict


def make_state(seed: int = 0, width: int = 16, **extra) -> State:
    random_numbers = np.random.default_rng(seed)

    def fill(x):
        return jnp.asarray((100 * random_numbers.standard_normal(x.shape)).astype(x.dtype))

    params = {
        "blocks": {
            0: {"kernel": np.empty((8, width), np.float32)},
            1: {"kernel": np.empty((width, 4), jnp.bfloat16)},
        },
        "head": {"bias": np.empty(width, np.float32)},
    }
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    opt_state = jax.eval_shape(optimizer.init, params)
    shapes = State(jnp.int32(0), params, opt_state, None, {"loss": jnp.float32(0)})
    state = jax.tree.map(fill, shapes)
    return dataclasses.replace(state, params={**state.params, **extra})


def like(state):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


def as_bytes(state):
    # Copied: np.asarray would keep the buffer alive and so prevent the donation under test.
    return [
        (x.dtype.name, x.shape, np.array(x, copy=True).tobytes()) for x in jax.tree.leaves(state)
    ]


def saved(directory: Path, *steps: int) -> dict[int, State]:
    """The states of the kept steps; the first is the best, the last the latest."""
    states = {step: make_state(step) for step in steps}
    with Checkpoints(directory) as checkpoints:
        for step in steps:
            checkpoints.save(step, states[step], val_accuracy=1 / step)
    return states


def files_of(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def tree_of(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in files_of(directory)}


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
