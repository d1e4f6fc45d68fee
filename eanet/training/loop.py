"""The training loop of a run: takes steps; reports, validates and saves where the plan says so."""

import dataclasses
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from eanet import devices
from eanet.checkpoints.manager import Checkpoints
from eanet.display.console import Console
from eanet.errors import Interrupted, TrainingDiverged
from eanet.signals import Request
from eanet.training import black_box, metrics
from eanet.training.dispatch import Pace, take_steps
from eanet.training.examine import first_not_finite
from eanet.training.run import Run
from eanet.training.step import TrainState
from eanet.workdir.log import RunLog


class Training:
    """The loop: takes steps, and reports, validates and saves where the plan says so."""

    def __init__(
        self,
        run: Run,
        workdir: Path,
        checkpoints: Checkpoints,
        log: RunLog,
        console: Console,
        stop: Request,
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
                progress.update(step, images_per_second=speed, **metrics.means(sums))

            while True:
                val = None
                if plan.reports_at(step):
                    if not self._is_reported(step):
                        val = self._report(state, step, progress)
                        self.pace.restart()
                    zeros = devices.replicate(metrics.zero_sums(), run.mesh)
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
        means = metrics.means(state.sums)
        means["learning_rate"] = float(self.run.learning_rate(step - 1))
        means["images_per_second"] = self._images_per_second()
        if skipped := int(state.skipped):
            means["skipped_steps"] = skipped
            self.console.warn(f"{skipped} steps skipped: their loss or gradient was not finite")
        self.log.write(step, epoch, "train", **means)
        if self.run.config.layer_statistics:
            layers = self.run.examine(state, step)
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
        layers = run.examine(state, step)
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
