"""`--mode=sweep`: plans the runs, works at them, and reports."""

import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType

from ml_collections import ConfigDict
from optuna.trial import TrialState

from eanet import files
from eanet.config import lasting, override
from eanet.display.console import Console
from eanet.errors import Interrupted, UserError
from eanet.signals import save_request, stop_request
from eanet.sweeps import plan as plan_lib
from eanet.sweeps import search
from eanet.sweeps.console import SweepDisplay, show_plan
from eanet.sweeps.estimate import RunSize
from eanet.sweeps.findings import conclusion
from eanet.sweeps.plan import PlannedRun
from eanet.sweeps.process import LOG
from eanet.sweeps.queue import Queue
from eanet.sweeps.records import Record, read_sweep, write_sweep
from eanet.sweeps.report import write_report
from eanet.sweeps.storage import UNAVAILABLE, check_url, open_storage
from eanet.sweeps.workers import Options, Task, Workers
from eanet.workdir.claim import check

Size = Callable[[ConfigDict], RunSize]  # of the run of a config; refuses an impossible one


def run_grid(
    definition: str, base: ConfigDict, module: ModuleType, options: Options, size: Size
) -> None:
    """Works at all runs that `eanet.sweeps.plan.plan` makes of a definition.

    Raises:
      UserError: for what is wrong with the definition or any run, before the first starts; at
        the end where no run succeeded.
      Interrupted: if SIGTERM or SIGINT came.
    """
    console = Console()
    check_url(options.storage)
    plan = plan_lib.plan(definition, module, base)
    directory = options.place(module, plan.title)
    for warning in plan.warnings:
        console.warn(warning)
    for run in plan.runs:
        check(directory / run.name, run.config)
    sizes = _sizes(plan.runs, size)
    if options.dry_run:
        configs = {run.name: run.config for run in plan.runs}
        show_plan(console, directory, sizes, configs, options.workers)
        return
    runs = [
        {"name": run.name, "settings": run.settings, **sizes[run.name]._asdict()}
        for run in plan.runs
    ]
    task = Task(plan.keys, {run.name: run.config for run in plan.runs})
    follow = plan_lib.followers(base, task.configs.values(), plan.keys)
    digests = {run.name: run.digest for run in plan.runs}
    _work(console, directory, options, task, runs, follow, digests)


def run_search(
    name: str, base: ConfigDict, module: ModuleType, options: Options, *, method: str, trials: int
) -> None:
    """Works at `trials` runs in `eanet.sweeps.plan.search_space`; raises as `run_grid` does."""
    console = Console()
    if trials < 1:
        raise UserError(f"--trials must be at least 1, not {trials}")
    check_url(options.storage)
    space = plan_lib.search_space(name, module, base)
    directory = options.place(module, name)
    if options.dry_run:
        for key, values in space.items():
            console.note(f"{key}: {values}")
        console.note(f"{trials} runs, each with values that are suggested when it starts")
        return
    names = search.names(trials)
    task = search.Search(space, base, method)
    changed = [override(base, {key: value}) for key in space for value in space[key].values]
    follow = plan_lib.followers(base, changed, space)
    digest = files.digest({"base": lasting(base), "space": repr(space)})[:8]
    runs = [{"name": each} for each in names]
    _work(console, directory, options, task, runs, follow, dict.fromkeys(names, digest))


def _sizes(runs: Sequence[PlannedRun], size: Size) -> dict[str, RunSize]:
    """The size of each run; runs that differ in the seed alone have the same."""
    known: dict[str, RunSize] = {}
    sizes = {}
    for run in runs:
        key = files.digest(lasting(override(run.config, {"seed": 0})))
        try:
            known[key] = sizes[run.name] = known.get(key) or size(run.config)
        except UserError as error:
            raise UserError(f"run {run.name}: {error}") from None
    return sizes


def _work(
    console: Console,
    directory: Path,
    options: Options,
    task: Task,
    runs: Sequence[Record],
    follow: Sequence[str],
    digests: Mapping[str, str],
) -> None:
    """Works at runs, of which `write_sweep` and `Queue.enqueue` say what is to be known."""
    own = directory / "queue"
    try:
        own.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise files.cannot_write(directory, error, "choose another --workdir") from None
    storage, timeout = open_storage(options.storage, own), options.heartbeat_timeout
    display = SweepDisplay(console, directory)
    try:
        queue = Queue(storage, directory.resolve().name, own, heartbeat_timeout=timeout)
        queue.enqueue(digests)
        display.show(queue.statuses(), {})
    except UNAVAILABLE as error:
        raise UserError(f"the queue cannot be reached: {error}; start the command again") from None
    command = _command(options.storage)
    write_sweep(directory, task.keys, runs, follow, space=task.space, command=command)
    console.note(f"{directory}: {display.summary()}")
    workers = Workers(queue, task, directory, options, display)
    # A lost terminal is for the runs to save at; the sweep goes on as they do.
    with stop_request() as stop, save_request(), console.live(display):
        workers.run(stop)
    console.note(f"{directory}: {display.summary()}")
    if stop.signal is not None:
        raise Interrupted(stop.signal, "sweep interrupted: the same command goes on")
    finish(console, directory, options.figures)
    failed = [name for name, each in display.statuses.items() if each.state is TrialState.FAIL]
    if failed and not any(each.state is TrialState.COMPLETE for each in display.statuses.values()):
        name, reason = failed[0], display.statuses[failed[0]].reason
        raise UserError(
            f"no run succeeded, {len(failed)} of {len(display.statuses)} failed; {name}: {reason}; "
            f"see {directory / name / LOG}"
        )


def _command(storage: str | None) -> str:
    """The command line of this program, without what a database's URL may tell of its users."""
    arguments = sys.orig_argv[1:]
    if storage:
        kind = storage.partition("://")[0]
        arguments = [argument.replace(storage, f"{kind}://…") for argument in arguments]
    return shlex.join(["python", *arguments])


def finish(console: Console, directory: Path, figures: Sequence[str]) -> None:
    """Measures what single images take, writes the report and says what came out."""
    latency = [sys.executable, "-m", "eanet", "latency", str(directory)]
    subprocess.run(latency, stdin=subprocess.DEVNULL, check=False)
    for path in write_report(directory, figures):
        console.note(f"wrote {path}")
    console.note(conclusion(read_sweep(directory)))
