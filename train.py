"""Training and evaluation of one run; the only place that knows the whole config."""

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import optax
from flax import nnx
from ml_collections import ConfigDict

from eanet import (
    augment,
    config_check,
    costs,
    data,
    devices,
    host,
    memory,
    model_sizes,
    report,
    steps,
)
from eanet.checkpoint import Checkpoints
from eanet.console import Console
from eanet.curves import plot_curves
from eanet.errors import Interrupted, TrainingDiverged, UserError
from eanet.model import EANet
from eanet.model_card import write_model_card
from eanet.optimizer import make_optimizer, make_schedule
from eanet.pace import Pace
from eanet.random_bits import random_key
from eanet.run_log import RunLog
from eanet.schedule import Plan
from eanet.signals import StopRequest, stop_request
from eanet.steps import TrainState
from eanet.workdir import claim


@dataclasses.dataclass(frozen=True)
class Run:
    """What a config stands for: data, model, optimizer, devices and how long to train."""

    config: ConfigDict
    dataset: data.Dataset
    model: steps.SplitModel
    optimizer: optax.GradientTransformation
    learning_rate: optax.Schedule
    plan: Plan
    mesh: jax.sharding.Mesh
    evaluate: Callable[[Any, data.Split], dict[str, float]]

    def initial_state(self) -> TrainState:
        """The state before the first step, on the devices."""
        init = jax.jit(self._initial_state, out_shardings=devices.replicated(self.mesh))
        return init()

    def abstract_state(self) -> TrainState:
        """Shapes, types and places of a state's arrays, without values."""
        sharding = devices.replicated(self.mesh)
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            jax.eval_shape(self._initial_state),
        )

    def _initial_state(self) -> TrainState:
        ema = self.config.optimizer.ema_decay > 0
        return steps.init_state(self.model.init(), self.optimizer, ema=ema)


def set_up(config: ConfigDict, log: Callable[[str], None]) -> Run:
    """Loads the data and builds everything that the config describes.

    Raises:
      UserError: for what the user can mend in config or data.
    """
    config_check.check(config)
    dataset = data.load(seed=config.seed, log=log, **config.dataset)
    augment.check(dataset.image_shape, **config.augment)
    plan = Plan(
        num_examples=len(dataset.train),
        batch_size=config.batch_size,
        num_epochs=config.num_epochs,
        eval_every_epochs=config.eval_every_epochs,
        checkpoint_every_epochs=config.checkpoint_every_epochs,
    )
    mesh = devices.make_mesh(config.batch_size)
    images = devices.images_per_pass(mesh, config.batch_size, config.microbatch_size)
    memory.check(memory.least_bytes(config.model, dataset.image_shape, images), mesh)
    model = steps.split_model(
        lambda: EANet(
            dataset.num_classes,
            dataset.image_shape,
            rngs=nnx.Rngs(random_key(config.seed)),  # compiles faster than JAX's own generator
            **config.model,
        )
    )
    options = config.optimizer.to_dict()
    del options["ema_decay"]
    learning_rate = make_schedule(
        options.pop("schedule"),
        learning_rate=options.pop("learning_rate"),
        total_steps=plan.total_steps,
        warmup_steps=plan.steps(options.pop("warmup_epochs")),
    )
    return Run(
        config=config,
        dataset=dataset,
        model=model,
        optimizer=make_optimizer(
            options.pop("name"), learning_rate, matrices=model.kernels, **options
        ),
        learning_rate=learning_rate,
        plan=plan,
        mesh=mesh,
        evaluate=steps.make_evaluate(
            model.apply,
            mesh,
            normalize=steps.normalizer(dataset.mean, dataset.std),
            label_smoothing=config.label_smoothing,
        ),
    )


def make_train_steps(run: Run) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """The jitted function that runs many training steps in one dispatch."""
    config = run.config
    return steps.make_train_steps(
        run.model.apply,
        run.optimizer,
        run.mesh,
        num_classes=run.dataset.num_classes,
        batch_size=config.batch_size,
        microbatch_size=config.microbatch_size,
        normalize=steps.normalizer(run.dataset.mean, run.dataset.std),
        augmentation=config.augment.to_dict(),
        label_smoothing=config.label_smoothing,
        ema_decay=config.optimizer.ema_decay,
        seed=config.seed,
        random_bits=config.random_bits,
    )


def describe(run: Run, console: Console) -> None:
    """Shows data and model."""
    dataset = run.dataset
    console.dataset_table(
        dataset.name,
        {"train": len(dataset.train), "val": len(dataset.val), "test": len(dataset.test)},
        image_shape=dataset.image_shape,
        num_classes=dataset.num_classes,
    )
    rows = costs.summarize(run.model.abstract)
    console.model_table(rows, costs.totals(rows))


@memory.shortage_refused()
def train(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Trains, or goes on where the newest good checkpoint stands; then tests the best one.

    Args:
      config: as `configs/eanet_cifar100.py` describes it.
      workdir: directory of the run; made if missing.

    Returns:
      The results on the test split.

    Raises:
      UserError: for what the user can mend.
      TrainingDiverged: if the loss is no longer finite.
      Interrupted: if SIGTERM or SIGINT came; the state is saved.
    """
    console = Console()
    run = set_up(config, console.note)
    claim(workdir, config)
    describe(run, console)
    with open_checkpoints(workdir, console) as checkpoints:
        step, state = checkpoints.restore_newest(like=run.abstract_state()) or (0, None)
        if state is None:
            state = run.initial_state()
        console.run_header(
            workdir=workdir,
            device=report.device(),
            step=step,
            total_steps=run.plan.total_steps,
            steps_per_epoch=run.plan.steps_per_epoch,
        )
        if step < run.plan.total_steps:
            with RunLog(workdir, step=step, say=console.note) as log, stop_request() as stop:
                loop(run, state, step, checkpoints, log, console, stop)
    results = evaluate(workdir, run=run, console=console)
    console.next_steps(workdir)
    return results


def open_checkpoints(workdir: Path, console: Console) -> Checkpoints:
    """The checkpoints of a run, which are there or will be."""
    return Checkpoints(workdir / "checkpoints", log=console.warn, explain=model_sizes.differences)


def saved(checkpoints: Checkpoints) -> str:
    """Says which checkpoint there is to fall back on."""
    step = checkpoints.latest()
    return "no checkpoint was saved yet" if step is None else f"step {step} is the last checkpoint"


def loop(
    run: Run,
    state: TrainState,
    step: int,
    checkpoints: Checkpoints,
    log: RunLog,
    console: Console,
    stop: StopRequest,
) -> None:
    """Runs the remaining steps; reports, validates and saves where the plan says so."""
    config, plan, pace = run.config, run.plan, Pace()
    train_steps = make_train_steps(run)
    images, labels = devices.replicate(
        (run.dataset.train.images, run.dataset.train.labels), run.mesh
    )
    with console.progress(
        plan.total_steps, step, plan.steps_per_epoch, config.num_epochs
    ) as progress:

        def finished(step: int, count: int, sums: Any) -> None:
            metrics = steps.means(sums)  # waits for the device
            if not math.isfinite(metrics["loss"]):
                raise TrainingDiverged(
                    f"the loss is not finite at step {step}; {saved(checkpoints)}; lower "
                    "optimizer.learning_rate or set optimizer.clip_norm"
                )
            pace.finished(count)
            progress.update(step, images_per_second=images_per_second(), **metrics)

        def images_per_second() -> float:
            return pace.steps_per_second() * config.batch_size

        while step < plan.total_steps and not stop:
            order = steps.epoch_order(
                config.seed, plan.epoch_of(step), plan.num_examples, config.batch_size
            )
            order, end = devices.replicate(order, run.mesh), plan.next_event(step)
            running: tuple[int, int, Any] | None = None
            while step < end and not stop:
                count = min(pace.steps, end - step)
                start = plan.offset_in_epoch(step)
                state, sums = train_steps(state, images, labels, order, start, count)
                pace.started()
                step += count
                # The device computes this dispatch while the host reads the one before it.
                if running:
                    finished(*running)
                running = (step, count, sums)
            if running:
                finished(*running)
            val: dict[str, float] | None = None
            if plan.reports_at(step):
                train_metrics = steps.means(state.sums)
                train_metrics["learning_rate"] = float(run.learning_rate(step - 1))
                train_metrics["images_per_second"] = images_per_second()
                log.write(step, plan.epochs(step), "train", **train_metrics)
                zeros = devices.replicate(steps.zero_sums(), run.mesh)
                state = dataclasses.replace(state, sums=zeros)
                if plan.validates_at(step) and len(run.dataset.val):
                    val = run.evaluate(state.eval_params, run.dataset.val)
                    log.write(step, plan.epochs(step), "val", **val)
                progress.epoch_done(plan.epochs(step), train=train_metrics, val=val)
                pace.restart()
            if val or stop or plan.saves_at(step):
                checkpoints.save(step, state, val_accuracy=val["accuracy"] if val else None)
    checkpoints.wait()
    if stop.signal is not None and step < plan.total_steps:
        raise Interrupted(
            stop.signal, f"interrupted after step {step}, state saved: the same command goes on"
        )


@memory.shortage_refused()
def evaluate(
    workdir: Path,
    *,
    checkpoint: str = "best",
    split: str = "test",
    run: Run | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Evaluates a checkpoint of a run on one split; writes `results_SPLIT.json`.

    Args:
      workdir: of the run; the config is read from its `config.json`.
      checkpoint: "best" on validation, "latest", or a step.
      split: "test", "val" or "train".
      run: what `set_up` made of the config, where that is at hand.
      console: where to say what happens.

    Returns:
      What `results_SPLIT.json` holds.

    Raises:
      UserError: if the workdir is no run, or the checkpoint is missing, damaged or does not fit.
    """
    console = console or Console()
    run = run or set_up(config_check.read(workdir / "config.json"), console.note)
    examples = getattr(run.dataset, split)
    if not len(examples):
        raise UserError(f"the {split} split of {run.dataset.name} is empty")
    with open_checkpoints(workdir, console) as checkpoints:
        if checkpoint == "best" and checkpoints.best() is None:
            checkpoint = "latest"  # nothing was held out for validation
        step = checkpoints.find(checkpoint)
        state = checkpoints.restore(step, like=run.abstract_state())
    start = time.perf_counter()
    metrics = run.evaluate(state.eval_params, examples)
    parameters, multiply_adds = costs.totals(costs.summarize(run.model.abstract))
    results = {
        **metrics,
        "num_examples": len(examples),
        "step": step,
        "epoch": run.plan.epochs(step),
        "parameters": parameters,
        "multiply_adds_per_image": multiply_adds,
        "wall_time_seconds": round(time.perf_counter() - start, 3),
        "host_settings": host.settings(),
    }
    report.write_results(workdir, split, results)
    console.results_table({**results, "split": split})
    plot_curves(workdir)
    write_model_card(workdir)
    return results
