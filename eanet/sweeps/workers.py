"""The local workers of a sweep: each takes the next run of the queue until none is left."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from ml_collections import ConfigDict

from eanet import host
from eanet.config import flatten
from eanet.display.numbers import epochs, percent
from eanet.display.plot_style import DEFAULT_KINDS
from eanet.errors import UserError
from eanet.signals import Request
from eanet.sweeps import records
from eanet.sweeps.console import SweepDisplay
from eanet.sweeps.process import Exit, RunProcess
from eanet.sweeps.queue import Claim, Lost, Queue
from eanet.sweeps.spec import Space
from eanet.sweeps.storage import UNAVAILABLE
from eanet.workdir.claim import claimed
from eanet.workdir.tensorboard import write_hparams

# Times that the system may end a run, as it does where memory is short.
_MAX_CRASHES = 3


@dataclass
class Task:
    """What the runs of the queue are: here those whose configs are known from the start."""

    keys: Sequence[str]  # that the runs override
    configs: Mapping[str, ConfigDict]  # by name of the run
    space: Space | None = None  # that is searched

    def config(self, claim: Claim) -> ConfigDict:
        """The config of a run that was taken."""
        return self.configs[claim.name]

    def hopeless(self, claim: Claim, workdir: Path) -> bool:
        """Whether a run is not worth going on with; asked now and then while it trains."""
        return False


@dataclass(frozen=True)
class Options:
    """How to work at a sweep on this machine."""

    directory: Path | None  # of the sweep; None for runs/CONFIG_SWEEP
    storage: str | None  # URL of the queue; None for a journal in the directory
    workers: int  # runs at once
    dry_run: bool  # whether only to say what would be done
    command: Callable[[Path], list[str]]  # what trains in a workdir, as `RunProcess` asks for it
    figures: Sequence[str] = DEFAULT_KINDS  # of files of the report's pictures
    # Seconds after which to look at the queue and the runs' files, to tell other hosts that a run's
    # worker is alive, and to think a worker elsewhere dead that tells nothing.
    look: float = 2.0
    heartbeat: float = 60.0
    heartbeat_timeout: float = 300.0

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise UserError(f"--workers must be at least 1, not {self.workers}")
        host.share(0, self.workers)

    def place(self, module: ModuleType, title: str) -> Path:
        """The directory of a sweep of a config file."""
        return self.directory or Path("runs") / f"{module.__name__}_{title}"


@dataclass
class _Work:
    claim: Claim
    process: RunProcess
    slot: int
    started: float
    heartbeat: float
    lost: bool = False
    hopeless: bool = False


@dataclass
class Workers:
    """The workers on this machine."""

    queue: Queue
    task: Task
    directory: Path  # of the sweep
    options: Options
    display: SweepDisplay
    _work: list[_Work] = field(default_factory=list)
    _unavailable: bool = False

    def run(self, stop: Request) -> None:
        """Works until every run of the queue has ended, here or elsewhere, or until `stop`."""
        look, finished = 0.0, False
        try:
            while not finished and not stop:
                self._while_available(self._collect)
                if time.monotonic() >= look:
                    finished = self._while_available(self._look)
                    look = time.monotonic() + self.options.look
                time.sleep(min(0.1, self.options.look))
        finally:
            for work in self._work:
                work.process.stop()
            for work in self._work:
                work.process.wait()
            self._while_available(lambda: self._collect() and self._show())

    def _while_available(self, action: Callable[[], bool]) -> bool:
        """Does something with the storage; where that cannot be reached, training goes on."""
        try:
            return action()
        except UNAVAILABLE as error:
            if not self._unavailable:
                self.display.warn(f"queue or files cannot be reached, trying again: {error}")
            self._unavailable = True
            return False

    def _look(self) -> bool:
        """Does what is to be done now and then; whether everything is done."""
        for name in self.queue.requeue():
            self.display.note(f"{name}: its worker died, waits again")
        while len(self._work) < self.options.workers and (claim := self.queue.take()):
            try:
                self._start(claim)
            except Lost:
                self._lose(claim)
            except UNAVAILABLE:
                claim.lock.close()  # so that the queue takes the run's worker for dead
                raise
        for work in self._work:
            self._attend(work)
        self._unavailable = False
        return self._show()

    def _show(self) -> bool:
        statuses, now = self.queue.statuses(), time.monotonic()
        self.display.show(statuses, {work.claim.name: now - work.started for work in self._work})
        return not self._work and all(each.state.is_finished() for each in statuses.values())

    def _start(self, claim: Claim) -> None:
        workdir = self.directory / claim.name
        slot = min(set(range(self.options.workers)) - {work.slot for work in self._work})
        try:
            config = self.task.config(claim)
            with claimed(workdir, config, self.display.warn):
                pass  # the config is in it now; the process that trains claims it again
            records.forget_ended(workdir)
            values = dict(flatten(config))
            write_hparams(workdir, {key: values[key] for key in self.task.keys})
            share, command = host.share(slot, self.options.workers), self.options.command(workdir)
            process = RunProcess(command, workdir, share, claim.lock.descriptor)
        except UserError as error:
            self._give_up(claim, str(error))
            return
        now = time.monotonic()
        self._work.append(_Work(claim, process, slot, started=now, heartbeat=now))
        self.display.note(f"{claim.name}: starts")

    def _attend(self, work: _Work) -> None:
        if work.lost or work.hopeless:
            return
        try:
            if time.monotonic() - work.heartbeat > self.options.heartbeat:
                work.claim.heartbeat()
                work.heartbeat = time.monotonic()
            if self.task.hopeless(work.claim, self.directory / work.claim.name):
                work.hopeless = True
                work.process.stop()
        except Lost:
            self._lose(work.claim)
            work.lost = True
            work.process.stop()

    def _collect(self) -> bool:
        """Tells the queue how processes ended."""
        for work in list(self._work):
            ended = work.process.exit()
            if ended is None:
                continue
            if not work.lost:
                try:
                    self._conclude(work, ended)
                except Lost:
                    self._lose(work.claim)
            self._work.remove(work)
        return True

    def _conclude(self, work: _Work, ended: Exit) -> None:
        claim, say = work.claim, self.display.note
        try:
            run = records.read_run(self.directory / claim.name)
        except UserError as error:  # of this run alone
            self._give_up(claim, str(error))
            return
        reached = epochs(run.step, run.epoch)
        if ended.kind == "ok" and run.state == "done" and run.best:
            claim.done(run.val_accuracy)
            say(f"{claim.name}: done, validation {percent(run.val_accuracy)}")
        elif work.hopeless:
            reason = f"stopped at epoch {reached}, worse than others at the same time"
            records.write_ended(self.directory / claim.name, "pruned", reason)
            claim.pruned(reason)
            say(f"{claim.name}: {reason}")
        elif ended.kind == "interrupted":
            claim.again("interrupted")
            say(f"{claim.name}: interrupted at epoch {reached}, its state is saved")
        elif ended.kind == "crashed" and claim.crashes + 1 < _MAX_CRASHES:
            claim.again(ended.reason, crashed=True)
            say(f"{claim.name}: {ended.reason}, waits again")
        elif ended.kind == "crashed":
            self._give_up(claim, f"{ended.reason}, {_MAX_CRASHES} times")
        else:
            self._give_up(claim, ended.reason or "ended without results to compare")

    def _give_up(self, claim: Claim, reason: str) -> None:
        records.write_ended(self.directory / claim.name, "failed", reason)
        claim.failed(reason)
        self.display.warn(f"{claim.name}: failed: {reason}")

    def _lose(self, claim: Claim) -> None:
        claim.lock.close()
        self.display.warn(f"{claim.name}: another worker has it, as this one was silent too long")
