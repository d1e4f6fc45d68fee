"""External against self-attention by number of tokens: time, memory and multiply-adds of a layer.

python -m benchmarks.scaling

One attention layer of the Keras example's width (d = 64), float32, no dropout: external attention
with 16 heads of width 16 and S memory units, self-attention with 4 heads of width 16 (its usual
d / heads). As in a training step of this project, each device takes a few images a pass: as many as
make 1,024 tokens, as the example's passes are, or one. Figures are for one image. Training is the
layer and the gradients of its parameters and tokens. The programs take turns in an order drawn
anew in each round. Memory is what XLA sets aside for temporary values.
"""

from eanet import host

if __name__ == "__main__":
    host.set_up()  # before JAX is imported

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks import contest, record
from benchmarks.contestant import repeat, seconds_of
from eanet import config_flags, devices
from eanet.display.console import Console
from eanet.display.numbers import human
from eanet.models.attention_fast import FastExternalAttention
from eanet.models.base import Attention
from eanet.models.self_attention import SelfAttention

EMBED_DIM, HEAD_DIM = 64, 16
EXTERNAL_HEADS, SELF_HEADS = 16, 4
TOKENS_PER_CALL = 1024
MODES = ("training", "inference")
MEASURES = {
    "milliseconds": "{:.3g}".format,
    "megabytes": "{:.3g}".format,
    "multiply_adds": human,
}


Point = dict[str, Any]
Curves = dict[str, list[Point]]


def main(arguments: Sequence[str]) -> None:
    """Compiles all programs, lets them take turns, and says where they cross."""
    del arguments
    options, console = flags.FLAGS, Console()
    modules = layers(map(int, options.units))
    points: dict[str, Point] = {}
    turns: dict[str, Callable[[], float]] = {}
    for tokens in map(int, options.tokens):
        for name, module in modules.items():
            for mode in MODES:
                key = f"{mode}, {name}, {tokens}"
                points[key], call = compiled(module, tokens, mode)
                points[key] |= {"layer": name, "mode": mode, "tokens": tokens}
                turns[key] = turn(call, options.seconds)
        console.note(f"{tokens:,} tokens: compiled")
    measured = contest.interleave(
        list(turns), lambda key: turns[key](), rounds=options.rounds, seed=options.seed
    )
    for key, point in points.items():
        point["rounds"] = [1e3 * seconds / point["images"] for seconds in measured[key]]
        point |= contest.spread(point["rounds"])
        point["milliseconds"] = point["median"]
    modes = {mode: by_layer(points.values(), mode) for mode in MODES}
    for mode, curves in modes.items():
        for measure in MEASURES:
            title = f"{mode.capitalize()}: {measure.replace('_', '-')} an image, by tokens"
            console.table(title, ("N", *curves), rows(curves, measure))
        title = f"{mode.capitalize()}: tokens from which external attention takes less"
        console.table(title, ("", *MEASURES), crossings(curves))
    values = {"rounds": options.rounds, "seed": options.seed, "points": list(points.values())}
    path = record.write(options.out, "scaling", values)
    console.note(f"recorded in {path} and {path.with_suffix('.png').name}")


def layers(units: Iterable[int]) -> dict[str, Attention]:
    """External attention with so many memory units, and self-attention."""
    options: dict[str, Any] = {"head_dim": HEAD_DIM, "rngs": nnx.Rngs(0)}
    external: dict[str, Attention] = {
        f"S = {count}": FastExternalAttention(
            EMBED_DIM, num_heads=EXTERNAL_HEADS, memory_size=count, **options
        )
        for count in units
    }
    return external | {"self": SelfAttention(EMBED_DIM, num_heads=SELF_HEADS, **options)}


def compiled(module: Attention, tokens: int, mode: str) -> tuple[Point, Callable[[], object]]:
    """The layer compiled for all devices: what is known of it, and a call that waits."""
    count = len(jax.local_devices())
    mesh = devices.make_mesh(count)
    images = count * max(1, TOKENS_PER_CALL // tokens)
    graphdef, state = nnx.split(module)
    split, whole = PartitionSpec(None, devices.BATCH_AXIS), PartitionSpec()

    def infer(state: Any, x: jax.Array) -> jax.Array:
        return nnx.merge(graphdef, state)(x)

    def gradients(state: Any, x: jax.Array) -> Any:
        of_state, of_x = jax.vjp(infer, state, x)[1](x)
        return jax.lax.psum(of_state, devices.BATCH_AXIS), of_x

    training = mode == "training"
    function = jax.shard_map(
        gradients if training else infer,
        mesh=mesh,
        in_specs=(whole, split),
        out_specs=(whole, split) if training else split,
        check_vma=False,
    )
    x = np.random.default_rng(0).normal(size=(EMBED_DIM, images, tokens)).astype(np.float32)
    arguments = (
        devices.replicate(state, mesh),
        jax.device_put(x, NamedSharding(mesh, split)),
    )
    program = jax.jit(function).lower(*arguments).compile()
    memory = program.memory_analysis()
    assert memory is not None
    point = {
        "images": images,
        # XLA tells of one device.
        "megabytes": memory.temp_size_in_bytes * count / images / 1e6,
        # A product has two gradients, each of as much work.
        "multiply_adds": (3 if training else 1) * module.macs(tokens, EMBED_DIM),
    }
    return point, lambda: jax.block_until_ready(program(*arguments))


def turn(call: Callable[[], object], seconds: float) -> Callable[[], float]:
    """A turn of about so many seconds; it returns the seconds of one call."""
    call()
    work, count = repeat(call), max(1, math.ceil(seconds / seconds_of(call)))
    return lambda: seconds_of(work, count) / count


def by_layer(points: Iterable[Point], mode: str) -> Curves:
    """The points of a mode, for each layer by number of tokens."""
    curves: Curves = {}
    for point in points:
        if point["mode"] == mode:
            curves.setdefault(point["layer"], []).append(point)
    return curves


def rows(curves: Curves, measure: str) -> Iterable[Sequence[str]]:
    """A row for each number of tokens, a column for each layer."""
    for points in zip(*curves.values(), strict=True):
        yield f"{points[0]['tokens']:,}", *(MEASURES[measure](point[measure]) for point in points)


def crossings(curves: Curves) -> Iterable[Sequence[str]]:
    """For each S, where external attention begins to take less of each measure."""
    for name, points in curves.items():
        if name != "self":
            yield name, *(crossing(points, curves["self"], measure) for measure in MEASURES)


def crossing(external: list[Point], own: list[Point], measure: str) -> str:
    """The number of tokens where two curves cross, interpolated between the measured ones."""
    tokens = np.log([point["tokens"] for point in own])
    lead = np.log([theirs[measure] / ours[measure] for ours, theirs in zip(external, own)])  # noqa: B905
    if lead[-1] < 0:
        return f"more than {own[-1]['tokens']:,}"
    after = len(lead) - int(np.argmax(lead[::-1] < 0)) if (lead < 0).any() else 0
    if after == 0:
        return f"at most {own[0]['tokens']:,}"
    around = slice(after - 1, after + 1)
    return f"{math.exp(np.interp(0.0, lead[around], tokens[around])):,.0f}"


if __name__ == "__main__":
    flags.DEFINE_list("tokens", [str(2**i) for i in range(6, 15)], "Numbers N of tokens.")
    flags.DEFINE_list("units", ["4", "16", "64", "256"], "Numbers S of memory units.")
    flags.DEFINE_integer("rounds", 9, "How often each program takes its turn.", lower_bound=1)
    flags.DEFINE_float("seconds", 0.2, "About how long a turn lasts; at least one call.")
    flags.DEFINE_integer("seed", 0, "Of the order of turns.")
    flags.DEFINE_string("out", "runs/benchmarks", "Directory of scaling.json and scaling.png.")
    config_flags.run(main)
