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

from eanet import augment, costs, data, devices, host, report, steps
from eanet import config as config_lib
from eanet.checkpoint import Checkpoints
from eanet.console import Console
from eanet.curves import plot_curves
from eanet.errors import Interrupted, TrainingDiverged, UserError
from eanet.model import EANet
from eanet.model_card import write_model_card
from eanet.optimizer import make_optimizer, make_schedule
from eanet.pace import Pace
from eanet.random_bits import IMPLEMENTATIONS, random_key
from eanet.run_log import RunLog
from eanet.schedule import Plan
from eanet.signals import StopRequest, stop_request
from eanet.steps import TrainState
from eanet.sweep_estimate import RunSize
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
    check(config)
    dataset = data.load(seed=config.seed, log=log, **config.dataset)
    model = steps.split_model(
        lambda: EANet(
            dataset.num_classes,
            dataset.image_shape,
            rngs=nnx.Rngs(random_key(config.seed)),  # compiles faster than JAX's own generator
            **config.model,
        )
    )
    plan = Plan(
        num_examples=len(dataset.train),
        batch_size=config.batch_size,
        num_epochs=config.num_epochs,
        eval_every_epochs=config.eval_every_epochs,
        checkpoint_every_epochs=config.checkpoint_every_epochs,
    )
    options = config.optimizer.to_dict()
    del options["ema_decay"]
    learning_rate = make_schedule(
        options.pop("schedule"),
        learning_rate=options.pop("learning_rate"),
        total_steps=plan.total_steps,
        warmup_steps=plan.steps(options.pop("warmup_epochs")),
    )
    mesh = devices.make_mesh(config.batch_size)
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


def set_up_saved(workdir: Path, log: Callable[[str], None]) -> Run:
    """Builds what the run's own `config.json` describes.

    Raises:
      UserError: if the file is missing, damaged or lacks a value.
    """
    path = workdir / "config.json"
    config = config_lib.from_json(path)
    try:
        return set_up(config, log)
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is damaged, a value is missing or of a wrong type: {error}"
        ) from error


def check(config: ConfigDict) -> None:
    """Refuses values that no other part looks at before the first step."""
    augment.check(**config.augment)
    if config.random_bits not in IMPLEMENTATIONS:
        choices = ", ".join(IMPLEMENTATIONS)
        raise UserError(f"random_bits must be one of {choices}, not {config.random_bits!r}")
    for key, below in (("label_smoothing", 1.0), ("optimizer.ema_decay", 1.0)):
        value = dict(config_lib.flatten(config))[key]
        if not 0.0 <= value < below:
            raise UserError(f"{key} must lie in [0, {below:g}), not {value}")
    if config.microbatch_size < 0:
        raise UserError(f"microbatch_size must not be negative, but is {config.microbatch_size}")


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


def size(config: ConfigDict) -> RunSize:
    """What a run of this config will hold and compute; nothing is trained.

    Raises:
      UserError: for what `train` would refuse, and for a run without validation.
    """
    run = set_up(config, lambda _: None)
    if not len(run.dataset.val):
        raise UserError("a sweep compares on validation, but dataset.val_fraction leaves none")
    parameters, multiply_adds = costs.totals(costs.summarize(run.model.abstract))
    return RunSize(parameters, multiply_adds, run.plan.total_steps * config.batch_size)


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


def train(config: ConfigDict | None, workdir: Path) -> dict[str, Any]:
    """Trains, or goes on where the newest good checkpoint stands; then tests the best one.

    Args:
      config: as `configs/eanet_cifar100.py` describes it; None takes the workdir's own.
      workdir: directory of the run; made if missing.

    Returns:
      The results on the test split.

    Raises:
      UserError: for what the user can mend.
      TrainingDiverged: if the loss is no longer finite.
      Interrupted: if SIGTERM or SIGINT came; the state is saved.
    """
    console = Console()
    run = set_up(config, console.note) if config else set_up_saved(workdir, console.note)
    claim(workdir, run.config)
    describe(run, console)
    with Checkpoints(workdir / "checkpoints", log=console.warn) as checkpoints:
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
    run = run or set_up_saved(workdir, console.note)
    examples = getattr(run.dataset, split)
    if not len(examples):
        raise UserError(f"the {split} split of {run.dataset.name} is empty")
    with Checkpoints(workdir / "checkpoints", log=console.warn) as checkpoints:
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
