"""The queue of a sweep: which run is next, who works at it, how it ended. Optuna keeps it.

Any number of processes on any number of hosts may use one queue. Each try of a run is an Optuna
trial that carries the run's name. Optuna guarantees two things: of several processes only one
turns a waiting trial into a running one, and only one finishes a trial. The rest follows from the
order of the trials, so that it needs no lock and may break off anywhere:

- A try may end for good (done, failed, pruned) or not (interrupted, its worker died). A run whose
  tries have all ended, none for good, is enqueued again by whoever sees it.
- Of several open tries of a run only the oldest counts. Two hosts that enqueue a run at the same
  time do no harm: the younger try is never taken unless the older one ends, and not for good.
- A worker that was thought dead and is not finds its try finished at its next heartbeat, and stops.

A worker holds a lock on each of its runs, see `eanet.workdir.lock`: a free lock in the same place
tells at once that the worker is dead. Of one elsewhere it is told by its heartbeat: an attribute of
the trial that has not changed for a while, on the clock of the process that looks.
"""

import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from optuna.exceptions import UpdateFinishedTrialError as Lost
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from eanet.errors import UserError
from eanet.workdir import lock as lock_lib
from eanet.workdir.lock import RunLock


class Status(NamedTuple):
    """What has become of a run, and for a failed one why."""

    state: TrialState
    reason: str = ""


@dataclass(eq=False)
class Claim:
    """A run that this process works at, until one of the methods that end it.

    All of them raise `Lost`, Optuna's error that a trial is finished, where the run is no longer
    this worker's; the lock is then still held.
    """

    name: str  # of the run
    trial_id: int  # of Optuna
    lock: RunLock  # on the run, for the processes that work at it to inherit
    crashes: int  # earlier tries that ended `again` as crashed
    _queue: "Queue"
    _heartbeats: int = 0

    def trial(self, sampler: BaseSampler, pruner: BasePruner) -> optuna.Trial:
        """The try as Optuna's samplers and pruners know it."""
        # Loaded anew, since a study keeps what it has once read for its sampler.
        name, storage = self._queue.study.study_name, self._queue.storage
        study = optuna.load_study(study_name=name, storage=storage, sampler=sampler, pruner=pruner)
        return optuna.Trial(study, self.trial_id)

    def heartbeat(self) -> None:
        """Tells the others that this worker is alive."""
        self._heartbeats += 1
        self._queue.storage.set_trial_user_attr(self.trial_id, "heartbeat", self._heartbeats)

    def done(self, value: float) -> None:
        """Ends the run well, with what a search maximises."""
        self._end(TrialState.COMPLETE, values=[value])

    def pruned(self, reason: str) -> None:
        """Ends the run as not worth its time."""
        self._end(TrialState.PRUNED, reason=reason)

    def failed(self, reason: str) -> None:
        """Ends the run for good."""
        self._end(TrialState.FAIL, reason=reason, again=False)

    def again(self, reason: str, *, crashed: bool = False) -> None:
        """Ends this try alone."""
        self._end(TrialState.FAIL, reason=reason, again=True, crashed=crashed)

    def _end(self, state: TrialState, **ended: Any) -> None:
        self._queue._end(self.trial_id, state, **ended)
        self.lock.close()


class Queue:
    """The runs of one sweep, which has the same name for all its workers.

    Every worker has an Optuna storage of its own onto the same data, and a directory for the locks.
    One elsewhere is thought dead after `heartbeat_timeout` seconds without a heartbeat.
    """

    def __init__(
        self, storage: BaseStorage, name: str, directory: Path, *, heartbeat_timeout: float
    ):
        directory.mkdir(parents=True, exist_ok=True)
        self.storage = storage
        self._directory = directory
        self._place = lock_lib.place(directory)
        self._heartbeat_timeout = heartbeat_timeout
        self._planned: dict[str, str] = {}
        self._heard: dict[int, tuple[Any, float]] = {}
        self.study = optuna.create_study(
            storage=storage, study_name=name, direction="maximize", load_if_exists=True
        )

    def enqueue(self, runs: Mapping[str, str]) -> None:
        """Makes these, name to digest of the config, the runs to work at; new ones join the queue.

        One that is there with another config is a `UserError`.
        """
        self._planned = dict(runs)
        for name, tries in self._tries().items():
            if tries and tries[0].user_attrs.get("config") != runs[name]:
                raise UserError(
                    f"the queue of {self.study.study_name} has a run {name} with another config; "
                    "choose another --workdir, or give the settings it was begun with"
                )
        for name in runs:
            if not self._tries()[name]:
                self._add(name)

    def take(self) -> Claim | None:
        """Claims the first waiting run that nobody holds a lock on; None where there is none."""
        for name, tries in self._tries().items():
            trial = _decisive(tries)
            if trial is None or trial.state != TrialState.WAITING:
                continue
            lock = lock_lib.acquire(self._directory / f"{name}.lock")
            if lock is None:
                continue
            with suppress(Lost), ExitStack() as unless_taken:
                unless_taken.callback(lock.close)
                if self.storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING):
                    crashes = sum(bool(_ended(each).get("crashed")) for each in tries)
                    self.storage.set_trial_user_attr(trial._trial_id, "place", self._place)
                    unless_taken.pop_all()
                    return Claim(name, trial._trial_id, lock, crashes, self)
        return None

    def requeue(self) -> list[str]:
        """Enqueues again the runs whose worker died or was interrupted; the names of the dead."""
        dead = []
        for name, tries in self._tries().items():
            for trial in tries:
                if trial.state == TrialState.RUNNING and self._is_dead(name, trial):
                    with suppress(Lost):  # where it has ended by now
                        reason = "its worker died"
                        self._end(trial._trial_id, TrialState.FAIL, reason=reason, again=True)
                        dead.append(name)
        for name, tries in self._tries().items():
            if _decisive(tries) is None:
                self._add(name, like=tries[-1] if tries else None)
        return dead

    def statuses(self) -> dict[str, Status]:
        """What has become of every planned run."""
        found = {}
        for name, tries in self._tries().items():
            trial = _decisive(tries)
            reason = str(_ended(trial).get("reason", "")) if trial else ""
            found[name] = Status(trial.state if trial else TrialState.WAITING, reason)
        return found

    def _tries(self) -> dict[str, list[FrozenTrial]]:
        """The tries of each planned run, oldest first."""
        found: dict[str, list[FrozenTrial]] = {name: [] for name in self._planned}
        for trial in sorted(self.study.get_trials(deepcopy=False), key=lambda t: t.number):
            if (name := str(trial.user_attrs.get("run"))) in found:
                found[name].append(trial)
        return found

    def _add(self, name: str, like: FrozenTrial | None = None) -> None:
        known: Any = {"params": like.params, "distributions": like.distributions} if like else {}
        attributes = {"run": name, "config": self._planned[name]}
        self.study.add_trial(create_trial(state=TrialState.WAITING, user_attrs=attributes, **known))

    def _is_dead(self, name: str, trial: FrozenTrial) -> bool:
        if trial.user_attrs.get("place") == self._place:
            return lock_lib.is_free(self._directory / f"{name}.lock")
        heartbeat, now = trial.user_attrs.get("heartbeat"), time.monotonic()
        last, since = self._heard.setdefault(trial.number, (heartbeat, now))
        if heartbeat != last:
            self._heard[trial.number] = heartbeat, now
            return False
        return now - since > self._heartbeat_timeout

    def _end(self, trial_id: int, state: TrialState, *, values: Any = None, **ended: Any) -> None:
        if ended:
            self.storage.set_trial_user_attr(trial_id, "ended", ended)
        self.storage.set_trial_state_values(trial_id, state, values)


def _ended(trial: FrozenTrial) -> dict[str, Any]:
    ended = trial.user_attrs.get("ended")
    return ended if isinstance(ended, dict) else {}


def _decisive(tries: list[FrozenTrial]) -> FrozenTrial | None:
    """The try that tells what became of a run: one that ended for good, else the oldest open."""
    counting = [t for t in tries if t.state != TrialState.FAIL or not _ended(t).get("again")]
    return min(counting, key=lambda trial: not trial.state.is_finished(), default=None)
