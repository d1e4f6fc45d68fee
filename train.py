"""Training and evaluation of one run; the only place that knows the whole config."""

import dataclasses
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from eanet import (
    augment,
    black_box,
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
from eanet.batches import Prepare, epoch_order, make_prepare, normalizer
from eanet.checkpoint import Checkpoints
from eanet.console import Console
from eanet.curves import plot_curves
from eanet.dispatch import Pace, take_steps
from eanet.errors import Interrupted, TrainingDiverged, UserError
from eanet.evaluation import make_evaluate
from eanet.examine import first_not_finite, make_examine
from eanet.metrics import means
from eanet.model import EANet
from eanet.model_card import write_model_card
from eanet.optimizer import make_optimizer, make_schedule
from eanet.random_bits import lowest_word
from eanet.run_log import RunLog
from eanet.schedule import Plan
from eanet.signals import StopRequest, stop_request
from eanet.split_model import SplitModel, split_model
from eanet.steps import TrainState
from eanet.sweep_estimate import RunSize
from eanet.workdir import claimed


@dataclasses.dataclass(frozen=True)
class Run:
    """What a config stands for: data, model, optimizer, devices and how long to train."""

    config: ConfigDict
    dataset: data.Dataset
    model: SplitModel
    optimizer: optax.GradientTransformation
    learning_rate: optax.Schedule
    plan: Plan
    mesh: jax.sharding.Mesh
    prepare: Prepare
    evaluate: Callable[..., dict[str, float] | None]

    @property
    def seed(self) -> np.uint32:
        """As an argument of compiled functions."""
        return lowest_word(self.config.seed)

    def order(self, step: int) -> jax.Array:
        """Indices of the examples of the epoch in which the batch after `step` begins."""
        plan = self.plan
        return epoch_order(
            self.config.seed, plan.epoch_of(step), plan.num_examples, plan.batch_size
        )

    def placed(self, step: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The training images and labels and the order of their epoch, on the devices."""
        examples = self.dataset.train
        return devices.replicate((examples.images, examples.labels, self.order(step)), self.mesh)

    def batch_indices(self, step: int) -> np.ndarray:
        """Indices of the examples of the batch after `step`."""
        start = self.plan.offset_in_epoch(step)
        return np.asarray(self.order(step)[start : start + self.plan.batch_size])

    def initial_state(self) -> TrainState:
        """The state before the first step, on the devices."""
        init = jax.jit(self._initial_state, out_shardings=devices.replicated(self.mesh))
        return init(self.seed)

    def abstract_state(self) -> TrainState:
        """Shapes, types and places of a state's arrays, without values."""
        sharding = devices.replicated(self.mesh)
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            jax.eval_shape(self._initial_state, self.seed),
        )

    def _initial_state(self, seed: Any) -> TrainState:
        ema = self.config.optimizer.ema_decay > 0
        return steps.init_state(self.model.init(seed), self.optimizer, ema=ema)


def set_up(
    config: ConfigDict, log: Callable[[str], None], dataset: data.Dataset | None = None
) -> Run:
    """Loads the data and builds everything that the config describes.

    Args:
      config: as `configs/eanet_cifar100.py` describes it.
      log: called with a line of text where loading takes long or needs to be known.
      dataset: takes the place of the one that the config names.

    Raises:
      UserError: for what the user can mend in config or data.
    """
    config_check.check(config)
    dataset = dataset or data.load(seed=config.seed, log=log, **config.dataset)
    augment.check(dataset.image_shape, **config.augment)
    plan = Plan(
        num_examples=len(dataset.train),
        batch_size=config.batch_size,
        num_epochs=config.num_epochs,
        eval_every_epochs=config.eval_every_epochs,
        checkpoint_every_epochs=config.checkpoint_every_epochs,
        checkpoint_every_steps=config.checkpoint_every_steps,
    )
    mesh = devices.make_mesh(config.batch_size)
    images = devices.images_per_pass(mesh, config.batch_size, config.microbatch_size)
    memory.check(memory.least_bytes(config.model, dataset.image_shape, images), mesh)
    model = split_model(
        lambda rngs: EANet(dataset.num_classes, dataset.image_shape, rngs=rngs, **config.model)
    )
    options = config.optimizer.to_dict()
    del options["ema_decay"]
    learning_rate = make_schedule(
        options.pop("schedule"),
        learning_rate=options.pop("learning_rate"),
        total_steps=plan.total_steps,
        warmup_steps=plan.steps(options.pop("warmup_epochs")),
    )
    normalize = normalizer(dataset.mean, dataset.std)
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
        prepare=make_prepare(
            num_classes=dataset.num_classes,
            normalize=normalize,
            augmentation=config.augment.to_dict(),
            random_bits=config.random_bits,
        ),
        evaluate=make_evaluate(
            model.apply, mesh, normalize=normalize, label_smoothing=config.label_smoothing
        ),
    )


def make_train_steps(run: Run) -> Any:
    """The jitted function that runs many training steps in one dispatch."""
    config = run.config
    return steps.make_train_steps(
        run.model.apply,
        run.optimizer,
        run.mesh,
        run.prepare,
        batch_size=config.batch_size,
        microbatch_size=config.microbatch_size,
        label_smoothing=config.label_smoothing,
        ema_decay=config.optimizer.ema_decay,
        nonfinite_limit=config.nonfinite_limit if config.on_nonfinite == "skip" else 0,
    )


def lower_train_steps(run: Run, like: TrainState) -> Any:
    """`make_train_steps` for a state `like` this and what `Run.placed` gives, to be compiled."""
    sharding = devices.replicated(run.mesh)
    images, labels = run.dataset.train.images, run.dataset.train.labels
    placed = [
        jax.ShapeDtypeStruct(shape, jax.dtypes.canonicalize_dtype(dtype), sharding=sharding)
        for shape, dtype in (
            (images.shape, images.dtype),
            (labels.shape, labels.dtype),
            ((len(images) + run.plan.batch_size,), np.int32),
        )
    ]
    return make_train_steps(run).lower(like, *placed, run.seed, 0, 0, 1)


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


@memory.shortage_refused()
def train(config: ConfigDict | None, workdir: Path) -> dict[str, Any]:
    """Trains, or goes on where the newest good checkpoint stands; then tests the best one.

    Args:
      config: as `configs/eanet_cifar100.py` describes it; None takes the workdir's own.
      workdir: directory of the run; made if missing.

    Returns:
      The results on the test split.

    Raises:
      UserError: for what the user can mend.
      TrainingDiverged: if loss or gradient are no longer finite.
      Interrupted: if SIGTERM or SIGINT came; the state is saved.
    """
    console = Console()
    config = config or config_check.read(workdir / "config.json")
    run = set_up(config, console.note)
    with claimed(workdir, config, console.warn):
        describe(run, console)
        with open_checkpoints(workdir, console) as checkpoints:
            like = run.abstract_state()
            step, state = checkpoints.restore_newest(like) or (0, None)
            with ThreadPoolExecutor(1) as background:  # compiles while the rest is made ready
                train_steps: Future[Any] = Future()
                if step < run.plan.total_steps:
                    train_steps = background.submit(lower_train_steps(run, like).compile)
                if state is None:
                    state = run.initial_state()
                console.run_header(
                    workdir=workdir,
                    device=report.device(),
                    step=step,
                    total_steps=run.plan.total_steps,
                    steps_per_epoch=run.plan.steps_per_epoch,
                )
                with RunLog(workdir, step=step, say=console.note) as log, stop_request() as stop:
                    training = Training(run, workdir, checkpoints, log, console, stop)
                    training.go_on(state, step, train_steps)
        results = evaluate(workdir, run=run, console=console)
    console.next_steps(workdir)
    return results


def open_checkpoints(workdir: Path, console: Console) -> Checkpoints:
    """The checkpoints of a run, which are there or will be."""
    return Checkpoints(workdir / "checkpoints", log=console.warn, explain=model_sizes.differences)


class Training:
    """The loop: takes steps, and reports, validates and saves where the plan says so."""

    def __init__(
        self,
        run: Run,
        workdir: Path,
        checkpoints: Checkpoints,
        log: RunLog,
        console: Console,
        stop: StopRequest,
    ):
        self.run, self.workdir, self.checkpoints = run, workdir, checkpoints
        self.log, self.console, self.stop = log, console, stop
        self.pace = Pace()
        self.saved_at = time.monotonic()

    def go_on(self, state: TrainState, step: int, train_steps: Future[Any]) -> None:
        """Trains from `step` to the end of the plan, or until a signal."""
        run, plan = self.run, self.run.plan
        if step == plan.total_steps and self._is_reported(step):
            return
        examples = run.dataset.train.images, run.dataset.train.labels
        images, labels = devices.replicate(examples, run.mesh)
        with self.console.progress(
            plan.total_steps, step, plan.steps_per_epoch, run.config.num_epochs
        ) as progress:

            def dispatch(state, step, count):
                start = plan.offset_in_epoch(step)
                arguments = images, labels, order, run.seed, step, start, count
                return train_steps.result()(state, *arguments)

            def show(step, sums):
                speed = self._images_per_second()
                progress.update(step, images_per_second=speed, **means(sums))

            while True:
                val = None
                if plan.reports_at(step):
                    if not self._is_reported(step):
                        val = self._report(state, step, progress)
                        self.pace.restart()
                    zeros = devices.replicate(steps.zero_sums(), run.mesh)
                    state = dataclasses.replace(state, sums=zeros)
                if val or self.stop or plan.saves_at(step) or self._save_is_due():
                    accuracy = val["accuracy"] if val else None
                    self.checkpoints.save(step, state, val_accuracy=accuracy)
                    self.saved_at = time.monotonic()
                if self.stop or step == plan.total_steps:
                    break
                order = devices.replicate(run.order(step), run.mesh)
                state, step, failed = take_steps(
                    dispatch,
                    state,
                    step,
                    plan.next_event(step),
                    pace=self.pace,
                    should_stop=lambda: bool(self.stop) or self._save_is_due(),
                    on_finished=show,
                )
                if failed:
                    self._diverged(state, step)
        self.checkpoints.wait()
        if self.stop.signal is not None and not (
            step == plan.total_steps and self._is_reported(step)
        ):
            raise Interrupted(
                self.stop.signal,
                f"interrupted after step {step}, state saved: the same command goes on",
            )

    def _images_per_second(self) -> float:
        return self.pace.steps_per_second() * self.run.config.batch_size

    def _save_is_due(self) -> bool:
        minutes = self.run.config.checkpoint_every_minutes
        return minutes > 0 and time.monotonic() - self.saved_at >= 60 * minutes

    def _validates_at(self, step: int) -> bool:
        return self.run.plan.validates_at(step) and len(self.run.dataset.val) > 0

    def _is_reported(self, step: int) -> bool:
        last = "val" if self._validates_at(step) else "train"
        return self.log.has(step, last)

    def _report(self, state: TrainState, step: int, progress: Any) -> dict[str, float] | None:
        """Logs the training metrics and, where it is time for it, those of validation.

        Returns:
          The latter; None also where a signal cut validation short: the next start repeats it.
        """
        run, epoch = self.run, self.run.plan.epochs(step)
        if not self.log.has(step, "train"):
            self._log_training(state, step, epoch)
        val = None
        if self._validates_at(step):
            val = run.evaluate(state.eval_params, run.dataset.val, lambda: bool(self.stop))
            if val is None:
                return None
            self.log.write(step, epoch, "val", **val)
        progress.epoch_done(epoch, train=self.log.last("train"), val=val)
        return val

    def _log_training(self, state: TrainState, step: int, epoch: float) -> None:
        metrics = means(state.sums)
        metrics["learning_rate"] = float(self.run.learning_rate(step - 1))
        metrics["images_per_second"] = self._images_per_second()
        if skipped := int(state.skipped):
            metrics["skipped_steps"] = skipped
            self.console.warn(f"{skipped} steps skipped: their loss or gradient was not finite")
        self.log.write(step, epoch, "train", **metrics)
        if self.run.config.layer_statistics:
            layers = examine(self.run, state, step)
            named = {f"{name}/{key}": layers[name][key] for name in layers for key in layers[name]}
            self.log.write(step, epoch, "layers", **named)

    def _diverged(self, state: TrainState, step: int) -> None:
        """Saves the state before the step that failed, and how to see it again.

        Raises:
          TrainingDiverged: always.
        """
        run, config = self.run, self.run.config
        self.checkpoints.save(step, state)
        self.checkpoints.wait()
        layers = examine(run, state, step)
        where = first_not_finite(layers) or "only in the compiled step"
        replay = f"python main.py --mode=replay --workdir={self.workdir}"
        path = black_box.write(
            self.workdir,
            {
                "step": step,
                "epoch": run.plan.epochs(step),
                "indices": run.batch_indices(step).tolist(),
                "seed": config.seed,
                "random_bits": config.random_bits,
                "skipped_steps": int(state.skipped),
                "where": where,
                "layers": layers,
                "replay": replay,
            },
        )
        raise TrainingDiverged(
            f"loss or gradient are not finite in step {step + 1} (first: {where}). The state "
            f"before it is checkpoint {step}, the record {path}; {replay} repeats it. To train on, "
            "lower optimizer.learning_rate or set optimizer.clip_norm, in another workdir"
        )


def examine(run: Run, state: TrainState, step: int) -> dict[str, dict[str, float]]:
    """Activations and gradients by layer in the step after `step`, see `eanet.examine`."""
    examine_step = make_examine(
        run.model,
        run.prepare,
        batch_size=run.config.batch_size,
        label_smoothing=run.config.label_smoothing,
    )
    index = run.batch_indices(step)
    train_split = run.dataset.train
    return examine_step(state, run.seed, train_split.images[index], train_split.labels[index])


@memory.shortage_refused()
def replay(workdir: Path) -> None:
    """Repeats the step that `blackbox.json` tells of, and shows it layer by layer.

    Raises:
      UserError: if there is none, or the data or the checkpoint are no longer the same.
      TrainingDiverged: if it fails again.
    """
    console = Console()
    record = black_box.read(workdir)
    run, step = set_up(config_check.read(workdir / "config.json"), console.note), record["step"]
    if run.batch_indices(step).tolist() != record["indices"]:
        raise UserError(f"the batch of step {step} is another than in {workdir}: the data changed")
    with open_checkpoints(workdir, console) as checkpoints:
        state = checkpoints.restore(step, like=run.abstract_state())
    layers = examine(run, state, step)
    console.layers_table(layers)
    start = run.plan.offset_in_epoch(step)
    _, _, reached = make_train_steps(run)(state, *run.placed(step), run.seed, step, start, 1)
    if int(reached) == step:
        where = first_not_finite(layers) or "only in the compiled step"
        raise TrainingDiverged(f"step {step + 1} fails again (first: {where})")
    console.note(f"step {step + 1} is finite here")


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
    metrics = run.evaluate(state.eval_params, examples) or {}
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
