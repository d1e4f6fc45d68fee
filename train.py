"""Training, evaluation and replay of one run, from its config to its files."""

import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from eanet import config as config_lib
from eanet import devices, host, precision
from eanet.checkpoints import storage
from eanet.checkpoints.manager import Checkpoints
from eanet.cluster import alike
from eanet.cluster.members import ALONE, Members
from eanet.display.class_counts import counts_line, missing_lines
from eanet.display.console import Console
from eanet.display.plot_style import DEFAULT_KINDS
from eanet.environment import device, versions
from eanet.errors import TrainingDiverged, UserError
from eanet.inference.evaluate import evaluate, take_part
from eanet.models import costs
from eanet.signals import save_request, stop_request
from eanet.stopwatch import Stopwatch
from eanet.sweeps.estimate import RunSize
from eanet.training import config_schema, diagnostics
from eanet.training.following import NoCheckpoints, NoLock, NoLog
from eanet.training.loop import Training
from eanet.training.run import Run, set_up
from eanet.training.step import TrainState
from eanet.transfer.start import initial_state, write_record
from eanet.workdir import machine, model_record
from eanet.workdir.claim import LOCK, MAY_CHANGE, claimed, take_changes
from eanet.workdir.log import RunLog
from eanet.workdir.model_record import ModelRecord


@devices.refusals()
def train(
    config: ConfigDict | None,
    workdir: Path,
    *,
    extend_to: float | None = None,
    figures: Sequence[str] = DEFAULT_KINDS,
    stopwatch: Stopwatch | None = None,
    members: Members = ALONE,
) -> dict[str, Any] | None:
    """Trains, or goes on where the newest good checkpoint stands; gives test results of the best.

    Args:
      config: as `configs/eanet_cifar100.py` describes it; None takes the workdir's own.
      workdir: directory of the run; made if missing.
      extend_to: epochs in all, more than the run was for.
      figures: kinds of files of the pictures, see `eanet.display.plot_style.KINDS`.
      stopwatch: runs since the program began; None for one from now on.
      members: the processes that train together; those that follow give None.

    Raises:
      UserError: for what the user can mend.
      TrainingDiverged: if loss or gradient are no longer finite.
      Interrupted: if SIGTERM or SIGINT came; the state is saved.
    """
    console = Console()
    stopwatch = stopwatch or Stopwatch.now()
    members.refuse_differences(alike.program())
    config = config or config_schema.read(workdir / "config.json")
    if extend_to is not None:
        extend(config, extend_to)
    members.refuse_differences(alike.settings(config))
    known = known_of(workdir, config, console)
    run = set_up(config, console.note, known=known, members=members)
    config_schema.refuse_hopeless(config)
    first = functools.cache(functools.partial(initial_state, run, console))
    members.refuse_differences(alike.data(run.dataset, run.streams))
    members.connect(run.mesh)
    if config.init_from and not (workdir / "config.json").exists():
        first()  # what does not fit is refused before a workdir is made
    if not members.leads:
        follow(workdir, run, lambda: first()[0], members)
        return None
    claim = claimed(workdir, config, console.warn, may_change=MAY_CHANGE)
    with claim as lock, save_request() as save:
        members.refuse_another_place(workdir / LOCK)
        describe(run, console)
        with open_checkpoints(workdir, console, config) as checkpoints:
            like = run.abstract_state()
            step, state, history = checkpoints.restore_newest(like) or (0, None, "")
            restored = state is not None
            record_start(workdir, run, known, step, console, has_begun=bool(checkpoints.steps()))
            with ThreadPoolExecutor(1) as background:  # compiles while the rest is made ready
                train_steps = compiled_by(background, run, like, step)
                if state is None:
                    state, start = first()
                    if start:
                        write_record(workdir, start)
                console.run_header(
                    workdir=workdir,
                    device=device(run.mesh.devices.flat),
                    step=step,
                    total_steps=run.plan.total_steps,
                    steps_per_epoch=run.plan.steps_per_epoch,
                )
                with (
                    RunLog(workdir, step=step, history=history, say=console.note) as log,
                    stop_request() as stop,
                ):
                    members.exchange(json.dumps([step, restored, log.lines()]))
                    state = from_leader(state, run, members)
                    training = Training(
                        run, workdir, lock, checkpoints, log, console, stop, save, members
                    )
                    training.go_on(state, step, train_steps)
        results = evaluate(
            workdir,
            figures=figures,
            run=run,
            stopwatch=None if step else stopwatch,  # what went before a stop is not known
            console=console,
            members=members,
        )
    console.next_steps(workdir)
    return results


def follow(workdir: Path, run: Run, first: Callable[[], TrainState], members: Members) -> None:
    """Trains and evaluates with the process that leads, and writes nothing.

    Raises:
      Interrupted: if SIGTERM or SIGINT came to any of them; the state is saved.
      TrainingDiverged: if loss or gradient are no longer finite.
    """
    with save_request() as save, stop_request() as stop:
        members.refuse_another_place(workdir / LOCK)
        step, restored, lines = json.loads(members.exchange("")[0])
        like = run.abstract_state()
        with ThreadPoolExecutor(1) as background:
            train_steps = compiled_by(background, run, like, step)
            empty = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like)
            state = from_leader(empty if restored else first(), run, members)
            here = NoLock(), NoCheckpoints(), NoLog(lines), Console()
            training = Training(run, workdir, *here, stop, save, members)
            training.go_on(state, step, train_steps)
    take_part(run, members)


def compiled_by(
    background: ThreadPoolExecutor, run: Run, like: TrainState, step: int
) -> Future[Any]:
    """The training steps from this one on, which are being compiled; none where all are done."""
    if step >= run.plan.total_steps:
        return Future()
    return background.submit(run.lower_train_steps(like).compile)


def from_leader(state: TrainState, run: Run, members: Members) -> TrainState:
    """The state of the process that leads, on the devices of this one."""
    if members is ALONE:
        return state
    host_state = members.broadcast(state, run.mesh)
    return jax.tree.map(storage.place, host_state, run.abstract_state())


@devices.refusals()
def replay(workdir: Path) -> None:
    """Repeats the step that `blackbox.json` tells of, and shows it layer by layer.

    Raises:
      UserError: if there is none, or the data or the checkpoint are no longer the same.
      TrainingDiverged: if it fails again.
    """
    console = Console()
    step, indices = diagnostics.read_black_box(workdir)
    config = config_schema.read(workdir / "config.json")
    run = set_up(config, console.note, known=model_record.read(workdir))
    if run.batch_indices(step).tolist() != indices:
        raise UserError(f"the batch of step {step} is another than in {workdir}: the data changed")
    with open_checkpoints(workdir, console, run.config) as checkpoints:
        _, state = checkpoints.restore(step, like=run.abstract_state())
    layers = run.examine(state, step)
    console.layers_table(layers)
    with run.feed.begin(step) as take:
        *examples, start = take(step, 1)
    _, _, reached = run.make_train_steps()(state, *examples, run.seed, step, start, 1)
    if int(reached) == step:
        where = diagnostics.first_not_finite(layers)
        raise TrainingDiverged(f"step {step + 1} fails again (first: {where})")
    console.note(f"step {step + 1} is finite here")


@devices.refusals()
def size(config: ConfigDict) -> RunSize:
    """What a run of this config will hold and compute; nothing is trained.

    Raises:
      UserError: for what `train` would refuse, and for a run without validation.
    """
    run = set_up(config, lambda _: None)
    config_schema.refuse_hopeless(config)
    if not len(run.dataset.val):
        raise UserError("a sweep compares on validation, but dataset.val_fraction leaves none")
    parameters, multiply_adds = costs.totals(costs.summarize(run.model.abstract))
    plan = run.plan
    # At the end the temperature is fitted on validation, and the test split evaluated.
    evaluated = (plan.validations + 1) * len(run.dataset.val) + len(run.dataset.test)
    return RunSize(parameters, multiply_adds, plan.total_steps * config.batch_size, evaluated)


def extend(config: ConfigDict, num_epochs: float) -> None:
    """Makes the run of this config longer; raises `UserError` where it would not be."""
    if not num_epochs > config.num_epochs:
        raise UserError(
            f"--extend_to={num_epochs:g} is no more than the {config.num_epochs:g} epochs it is for"
        )
    config.num_epochs = num_epochs


def record_start(
    workdir: Path,
    run: Run,
    known: ModelRecord | None,
    step: int,
    console: Console,
    *,
    has_begun: bool,
) -> None:
    """Records on what data and by what a claimed run goes on, and what has changed of its config.

    Raises:
      UserError: it is longer already than it shall be, or cannot be written.
    """
    reached = step, run.plan.epochs(step)
    take_changes(workdir, run.config, reached=reached, say=console.note)
    record = ModelRecord.of(run.dataset)
    if known is None and has_begun:
        console.note(f"{workdir} had no {model_record.NAME}: written from the data as it is")
    if known is None or known.data != record.data:
        model_record.write(workdir, record)
    computed_on: dict[str, Any] = {
        "device": device(run.mesh.devices.flat),
        "versions": versions(),
        "settings": host.settings(),
    }
    if step and (changed := machine.describe_change(workdir, computed_on)):
        console.warn(f"the last digits may be others than before: {changed}")
    machine.write(workdir, computed_on, step)


def known_of(workdir: Path, config: ConfigDict, console: Console) -> ModelRecord | None:
    """What is recorded of a run that has begun; without its place, where the config has another."""
    known = model_record.read(workdir)
    if known is None or known.data is None or not (workdir / "config.json").exists():
        return known
    saved = config_lib.from_json(workdir / "config.json").dataset
    if all(saved[key] == config.dataset[key] for key in ("name", "data_dir")):
        return known
    console.note(f"the data is read from elsewhere: it was in {known.data.place or saved.name}")
    return dataclasses.replace(known, data=dataclasses.replace(known.data, place=None))


def describe(run: Run, console: Console) -> None:
    """Shows data and model, and says where not all devices compute."""
    there, used = jax.device_count(), run.mesh.size
    if used < there:
        console.warn(
            f"{used} of {there} devices are used: all processes need equally many, and "
            f"batch_size={run.config.batch_size} a multiple of them"
        )
    told = precision.without_effect(run.config.matmul_precision, run.config.model.dtype)
    for warning in filter(None, (host.unused_accelerator(), told)):
        console.warn(warning)
    if run.streams:
        console.note("the training images are streamed: the devices get them batch by batch")
    dataset = run.dataset
    console.dataset_table(
        dataset.name,
        {"train": len(dataset.train), "val": len(dataset.val), "test": len(dataset.test)},
        image_shape=dataset.image_shape,
        num_classes=dataset.num_classes,
    )
    names, weights = dataset.class_names, dataset.class_weights
    console.note(f"classes  {counts_line(names, dataset.train.labels, weights)}")
    for missing in missing_lines(dataset, run.config.dataset.val_split):
        console.warn(missing)
    if dataset.skipped:
        console.warn(
            f"left out, as it cannot be read: {dataset.skipped:,} of the files of {dataset.name}"
        )
    rows = costs.summarize(run.model.abstract)
    console.model_table(rows, costs.totals(rows))


def open_checkpoints(workdir: Path, console: Console, config: ConfigDict) -> Checkpoints:
    """The checkpoints of a run, which are there or will be."""
    values = dict(config_lib.flatten(config))
    return Checkpoints(workdir / "checkpoints", log=console.warn, config=values)
