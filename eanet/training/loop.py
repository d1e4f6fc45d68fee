"""The training loop of a run: takes steps; reports, validates and saves where the plan says so."""

import dataclasses
import shlex
import signal
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from eanet import devices
from eanet.checkpoints.manager import Checkpoints
from eanet.cluster.members import ALONE, Members, Wishes
from eanet.display.console import Console
from eanet.environment import device
from eanet.errors import Interrupted, TrainingDiverged, UserError
from eanet.signals import Request
from eanet.training import diagnostics, metrics
from eanet.training.dispatch import Pace, take_steps
from eanet.training.following import NoCheckpoints, NoLock, NoLog
from eanet.training.run import Run
from eanet.training.step import TrainState
from eanet.workdir.lock import RunLock
from eanet.workdir.log import RunLog

_NOTHING = Wishes(stop=None, save=None, due=False, steps=1)


class _Unreadable(Exception):
    """The examples of the next step cannot be read; this is the state before it."""

    def __init__(self, state: TrainState):
        super().__init__()
        self.state = state


@dataclasses.dataclass
class Training:
    """A run in training, and what it writes to."""

    run: Run
    workdir: Path
    lock: RunLock | NoLock  # on the workdir
    checkpoints: Checkpoints | NoCheckpoints
    log: RunLog | NoLog
    console: Console
    stop: Request
    save: Request
    members: Members = ALONE
    pace: Pace = dataclasses.field(default_factory=Pace)
    saved_at: float = dataclasses.field(default_factory=time.monotonic)
    unreadable: BaseException | None = None  # says which example cannot be read
    agreed: Wishes = dataclasses.field(default=_NOTHING)  # by all members, when they last met

    def go_on(self, state: TrainState, step: int, train_steps: Future[Any]) -> None:
        """Trains from `step` to the end of the plan, or until a signal.

        Raises:
          Interrupted: by a signal; the state is saved.
          TrainingDiverged: loss or gradient are no longer finite.
          UserError: another process has taken the workdir, or it cannot be written; or an image
            that was sound at the start can no longer be read, and the state is saved.
        """
        run, plan, start = self.run, self.run.plan, step
        self._mark_lost_lines(step)
        if self._is_complete(step):
            return
        with (
            run.feed.begin(step) as take,
            self.console.progress(
                plan.total_steps, step, plan.steps_per_epoch, run.config.num_epochs
            ) as progress,
        ):

            def dispatch(state, step, count):
                try:
                    images, labels, order, offset = take(step, count)
                except UserError as error:
                    raise _Unreadable(state) from error
                arguments = images, labels, order, run.seed, step, offset, count
                return train_steps.result()(state, *arguments)

            def show(step, sums):
                speed = self._images_per_second()
                progress.update(step, images_per_second=speed, **metrics.means(sums))

            while True:
                self.lock.confirm()
                self._agree()
                val = None
                if plan.reports_at(step):
                    if not self._is_reported(step):
                        val = self._report(state, step, progress, has_trained=step > start)
                        self.pace.restart()
                    zeros = devices.replicate(metrics.zero_sums(), run.mesh)
                    state = dataclasses.replace(state, sums=zeros)
                if val or self._stops() or self.unreadable or self._saves_at(step):
                    self._save(state, step, val)
                if self._stops() or self.unreadable or step == plan.total_steps:
                    break
                try:
                    state, step, failed = take_steps(
                        dispatch,
                        state,
                        step,
                        plan.next_event(step),
                        most=run.feed.most,
                        pace=self.pace,
                        should_stop=self._should_pause,
                        on_finished=show,
                    )
                except _Unreadable as reason:
                    self.unreadable = reason.__cause__
                    state, step, failed = reason.state, int(reason.state.step), False
                if failed:
                    self._diverged(state, step)
        self.checkpoints.wait()
        if self.unreadable:
            saved = f"the state after step {step} is saved: " if self.members.leads else ""
            raise UserError(
                f"{self.unreadable}; {saved}once this is mended, the same command goes on"
            )
        if self.agreed.stop is not None and not self._is_complete(step):
            raise Interrupted(
                self.agreed.stop,
                f"interrupted after step {step}, state saved: the same command goes on",
            )

    def _images_per_second(self) -> float:
        return self.pace.steps_per_second() * self.run.config.batch_size

    def _agree(self) -> None:
        """Asks all processes what they were asked for, and takes steps as many at once as they."""
        minutes = self.run.config.checkpoint_every_minutes
        due = 0 < 60 * minutes <= time.monotonic() - self.saved_at
        wishes = Wishes(self.stop.signal, self.save.signal, due, self.pace.steps)
        self.agreed = self.members.agree(wishes)
        self.pace.steps = self.agreed.steps

    def _should_pause(self) -> bool:
        self._agree()
        return self._stops() or self._save_is_due()

    def _should_stop(self) -> bool:
        self._agree()
        return self._stops()

    def _stops(self) -> bool:
        return self.agreed.stop is not None

    def _saves_at(self, step: int) -> bool:
        return self.run.plan.saves_at(step) or self._save_is_due()

    def _save_is_due(self) -> bool:
        return self.agreed.save is not None or self.agreed.due

    def _save(self, state: TrainState, step: int, val: dict[str, float] | None) -> None:
        accuracy = val["accuracy"] if val else None
        self.checkpoints.save(step, state, val_accuracy=accuracy, history=self.log.text())
        self.saved_at = time.monotonic()
        if self.agreed.save is not None:
            self.checkpoints.wait()
            name = signal.Signals(self.agreed.save).name
            self.save.clear()
            self.console.note(f"{name}: the state after step {step} is saved; training goes on")

    def _is_complete(self, step: int) -> bool:
        return step == self.run.plan.total_steps and self._is_reported(step)

    def _validates_at(self, step: int) -> bool:
        return self.run.plan.validates_at(step) and len(self.run.dataset.val) > 0

    def _is_reported(self, step: int) -> bool:
        if self._validates_at(step):
            return self.log.has(step, "val")
        return self.log.has(step, "train") or self.log.has(step, "lost")

    def _mark_lost_lines(self, step: int) -> None:
        """Marks the epochs up to `step` whose lines the log lacks: they were measured, once."""
        plan, log = self.run.plan, self.log
        ends = {plan.steps(epoch): epoch for epoch in range(1, int(plan.epochs(step)) + 1)}
        known = ("train", "lost")
        lost = [e for e in ends if e <= step and not any(log.has(e, split) for split in known)]
        if lost:
            self.console.warn(
                f"{log.path} lacks the lines of {len(lost)} epochs, and no checkpoint has them; "
                '"lost" stands there instead'
            )
        for end in lost:
            log.write(end, ends[end], "lost")

    def _report(
        self, state: TrainState, step: int, progress: Any, *, has_trained: bool
    ) -> dict[str, float] | None:
        """Logs the training metrics and, where it is time for it, those of validation.

        Returns:
          The latter; None also where a signal or an image that cannot be read cut validation short:
          the next start repeats it.
        """
        run, epoch = self.run, self.run.plan.epochs(step)
        means = metrics.means(state.sums)
        if not self.log.has(step, "train") and (means or has_trained):
            self._log_training(state, step, epoch, means)
        val = None
        if self._validates_at(step):
            try:
                val = run.evaluate(state.eval_params, run.dataset.val, self._should_stop)
            except UserError as error:
                self.unreadable = error
            if val is None:
                return None
            self.log.write(step, epoch, "val", **val)
        progress.epoch_done(epoch, train=self.log.get(step, "train"), val=val)
        return val

    def _log_training(
        self, state: TrainState, step: int, epoch: float, means: dict[str, float]
    ) -> None:
        learning_rate, speed = float(self.run.learning_rate(step - 1)), self._images_per_second()
        line = means | {"learning_rate": learning_rate, "images_per_second": speed}
        if skipped := int(state.skipped):
            line["skipped_steps"] = skipped
            self.console.warn(
                f"{skipped} steps skipped so far, of nonfinite_limit="
                f"{self.run.config.nonfinite_limit}: their loss or gradient was not finite"
            )
        self.log.write(step, epoch, "train", **line)
        if self.run.config.layer_statistics and self.members.leads:
            layers = self.run.examine(state, step)
            named = {f"{name}/{key}": layers[name][key] for name in layers for key in layers[name]}
            self.log.write(step, epoch, "layers", **named)

    def _diverged(self, state: TrainState, step: int) -> None:
        """Saves the state before the step that failed, and how to see it again.

        Raises:
          TrainingDiverged: always.
        """
        run, config = self.run, self.run.config
        self.checkpoints.save(step, state, history=self.log.text())
        self.checkpoints.wait()
        if not self.members.leads:
            raise TrainingDiverged(f"loss or gradient are not finite in step {step + 1}")
        layers = run.examine(state, step)
        where, skipped = diagnostics.first_not_finite(layers), int(state.skipped)
        replay = f"python main.py --mode=replay --workdir={shlex.quote(str(self.workdir))}"
        path = diagnostics.write_black_box(
            self.workdir,
            {
                "step": step,
                "epoch": run.plan.epochs(step),
                "indices": run.batch_indices(step).tolist(),
                "seed": config.seed,
                "random_bits": config.random_bits,
                "skipped_steps": skipped,
                "where": where,
                "layers": layers,
                "device": device(run.mesh.devices.flat),
                "replay": replay,
            },
        )
        before = f", after {skipped} skipped steps, which is nonfinite_limit" if skipped else ""
        raise TrainingDiverged(
            f"loss or gradient are not finite in step {step + 1} (first: {where}){before}. The "
            f"state before it is checkpoint {step}, the record {path}; {replay} repeats it. To "
            "train on, lower optimizer.learning_rate or set optimizer.clip_norm, in another workdir"
        )
