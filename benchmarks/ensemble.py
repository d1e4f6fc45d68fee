"""Many seeds of one shape in one program, against one run after the other.

python -m benchmarks.ensemble --config=configs/eanet_cifar100.py

The ensemble is `jax.vmap` over the training step of `main.py`. Its members differ in the seed of
augmentation and dropout, and share data, order and initial parameters, on which no time depends.
Both have all devices, and as many images a pass as fit the caches. Images/s are those of all
members together. The programs take turns in an order drawn anew in each round.
"""

from eanet import host

if __name__ == "__main__":
    host.set_up()  # before JAX is imported

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from benchmarks import contest, record
from benchmarks.contestant import seconds_of
from eanet import config_flags, devices
from eanet.display.console import Console
from eanet.errors import UserError
from eanet.models import costs
from eanet.training.run import Run, set_up

ALONE = "one after the other"

CONFIG = config_flags.DEFINE_config()
flags.DEFINE_list("members", ["2", "4", "8"], "Numbers of seeds in one program.")
flags.DEFINE_integer("rounds", 5, "How often each program takes its turn.", lower_bound=1)
flags.DEFINE_float("seconds", 3.0, "About how long a turn lasts; at least one step.")
flags.DEFINE_integer("seed", 0, "Of the order of turns.")
flags.DEFINE_string("out", "runs/benchmarks", "Directory of ensemble.json and ensemble.png.")


def main(arguments: Sequence[str]) -> None:
    """Compiles the programs, lets them take turns, and compares the ensembles with single runs."""
    del arguments
    options, console = flags.FLAGS, Console()
    if CONFIG.value is None:
        raise UserError("--config=FILE is missing, for example configs/eanet_cifar100.py")
    run = set_up(CONFIG.value, console.note)
    programs = {ALONE: single(run)}
    for members in map(int, options.members):
        programs[f"{members} seeds at once"] = ensemble(run, members)
    seconds = {name: seconds_of(work, 1) for name, (work, _) in programs.items()}

    def turn(name: str) -> float:
        work, images = programs[name]
        count = max(1, round(options.seconds / seconds[name]))
        seconds[name] = seconds_of(work, count) / count
        return images / seconds[name]

    measured = contest.interleave(list(programs), turn, rounds=options.rounds, seed=options.seed)
    results = {
        name: contest.spread(values)
        | {"rounds": values, "ratio": contest.ratios(values, measured[ALONE])["of_medians"]}
        for name, values in measured.items()
    }
    console.table("Training, all seeds together", ("", "images/s", "ratio"), rows(results))
    values = {
        "config": CONFIG.value.to_dict(),
        "rounds": options.rounds,
        "seed": options.seed,
        "programs": results,
    }
    path = record.write(options.out, "ensemble", values)
    console.note(f"recorded in {path} and {path.with_suffix('.png').name}")


def single(run: Run) -> tuple[Callable[[int], None], int]:
    """Steps of one run, warm, and the images of a step."""
    return _warm(run, run.make_train_steps(), run.initial_state(), run.seed, run.order(0)), (
        run.config.batch_size
    )


def ensemble(run: Run, members: int) -> tuple[Callable[[int], None], int]:
    """Steps of so many runs in one program, warm, and the images of a step of all."""

    def stacked(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: jnp.stack([leaf] * members), tree)

    config = run.config
    at_once = costs.images_at_once(run.model.abstract, run.mesh, training=True) // members
    images = devices.microbatch(
        run.mesh, config.batch_size, config.microbatch_size, max(2, at_once)
    )
    run = dataclasses.replace(run, microbatch=images)
    steps = jax.vmap(run.make_train_steps(), (0, None, None, 0, 0, None, None, None))
    seeds = np.arange(members, dtype=np.uint32)
    state, order = stacked(run.initial_state()), stacked(run.order(0))
    steps = jax.jit(steps, donate_argnums=0)
    return _warm(run, steps, state, seeds, order), members * run.config.batch_size


def _warm(
    run: Run, steps: Callable[..., Any], state: Any, seed: Any, order: Any
) -> Callable[[int], None]:
    """`work(count)` takes so many steps and waits; it has taken some."""
    images, labels, order = devices.replicate(
        (run.dataset.train.images, run.dataset.train.labels, order), run.mesh
    )
    epoch = run.plan.num_examples // run.config.batch_size
    state, step = devices.replicate(state, run.mesh), 0

    def work(count: int) -> None:
        nonlocal state, step
        while count > 0:
            taken = min(count, epoch)
            state, _, reached = steps(state, images, labels, order, seed, step, 0, taken)
            step, count = step + taken, count - taken
        assert (np.asarray(reached) == step).all()  # waits

    work(2)
    return work


def rows(results: Mapping[str, Mapping[str, Any]]) -> Iterable[Sequence[str]]:
    """A row for each program."""
    for name, result in results.items():
        yield name, f"{result['median']:,.0f}", f"{result['ratio']:.2f} ×"


if __name__ == "__main__":
    config_flags.run(main)
