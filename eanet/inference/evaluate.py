"""The evaluation of a checkpoint on one split, from a run's directory to its files there."""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from eanet import config as config_lib
from eanet import devices, files, host, precision
from eanet.cluster import alike
from eanet.cluster.members import ALONE, Members
from eanet.data.base import Split, content_fingerprint
from eanet.display import titles
from eanet.display.console import Console
from eanet.display.curves import plot_curves
from eanet.display.model_card import write_model_card
from eanet.display.plot_style import DEFAULT_KINDS
from eanet.environment import device
from eanet.errors import Interrupted, UserError
from eanet.inference import measures
from eanet.inference.examples import Examples, load_examples
from eanet.inference.load import load
from eanet.inference.model import Model
from eanet.inference.report import Report
from eanet.models import costs
from eanet.models.attentions import attention_class
from eanet.signals import Request, stop_request
from eanet.stopwatch import Stopwatch
from eanet.training.run import Run, build_evaluate, build_plan
from eanet.workdir.results import results_name, write_results

Logits = Float[np.ndarray, "n classes"]
Measure = Callable[..., dict[str, float] | None]  # see `eanet.training.evaluation`


@devices.refusals()
def evaluate(
    workdir: Path | str,
    *,
    checkpoint: str = "best",
    split: str = "test",
    dataset: str | None = None,
    data_dir: str | None = None,
    figures: Sequence[str] = DEFAULT_KINDS,
    run: Run | None = None,
    stopwatch: Stopwatch | None = None,
    console: Console | None = None,
    members: Members = ALONE,
) -> dict[str, Any]:
    """Evaluates a checkpoint of a run on one split; writes and returns `results_SPLIT.json`.

    Of a model that is in no directory of a run, nothing is written.

    Args:
      workdir: of the run, whose config is read from its `config.json`; or where else `load`
        takes a model from.
      checkpoint: "best" on validation, "latest", or a step.
      split: "test", "val" or "train".
      dataset: name of other data; None for that of the run.
      data_dir: where the data is now; None for where it was.
      figures: kinds of files of the pictures, see `eanet.display.plot_style.KINDS`.
      run: what `set_up` made of the config, where that is at hand.
      stopwatch: runs since the run began; None where that is not all that it took.
      console: where to say what happens.
      members: the processes that evaluate together. At the end of training the others `take_part`;
        else all call this, and those that follow write nothing and return the metrics alone.

    Raises:
      UserError: if the workdir is no run, the checkpoint is missing, damaged or does not fit, or
        the data is not what the run was trained on and was not asked for.
      Interrupted: if SIGTERM or SIGINT came.
    """
    console = console or Console()
    model = load(workdir, checkpoint, log=console.warn)
    config = model.config
    mesh = devices.make_mesh(config.batch_size)
    if run is None:
        if unused := host.unused_accelerator():
            console.warn(unused)
        examples = load_examples(model, split, dataset=dataset, data_dir=data_dir, log=console.note)
        measure = _made_ready(model, examples, mesh, members)
    else:
        examples = Examples(getattr(run.dataset, split), run.dataset.fingerprints[split])
        measure = run.evaluate
    held_out = partial(_validation, model, run, data_dir if dataset is None else None, console)
    fitted_here = split == "val" and examples.other is None
    answers = _answers(
        model.params,
        len(model.class_names),
        mesh,
        measure,
        examples.split,
        None if fitted_here else held_out,
        members,
    )
    if not members.leads:
        return answers.metrics
    report = None
    if np.isfinite(answers.logits).all():
        report = Report.of(
            answers.logits, examples.split.labels, answers.temperature, fitted_here=fitted_here
        )
    else:
        console.warn("some logits are not finite: no more than accuracy and loss is measured")
    results = {
        **answers.metrics,
        **(report.numbers if report else {}),
        **_facts(model, examples, mesh),
        "evaluation_seconds": round(answers.seconds, 3),
        **(stopwatch.read() if stopwatch else {}),
    }
    console.results_table({**results, "split": split})
    if not os.path.isdir(workdir):
        console.note(f"not recorded: {workdir} is no directory of a run")
        return results
    workdir = Path(workdir)
    data = titles.of_data(examples.other or config.dataset.name)
    model_name = titles.of_model(config.model.attention)
    where = f"of {model_name} on the {titles.SPLITS[split]} split of {data}"
    beside = report.files(where, examples.split, model.class_names, figures) if report else {}
    which = {"split": split, "checkpoint": checkpoint, "other": examples.other}
    _record(workdir, config, results, beside, which, figures, console, final=run is not None)
    return results


def take_part(run: Run, members: Members) -> None:
    """Does the part of a process that follows in `evaluate` at the end of training."""
    params = jax.tree.map(
        lambda leaf: np.zeros(leaf.shape, leaf.dtype), run.abstract_state().params
    )
    _answers(
        params,
        run.dataset.num_classes,
        run.mesh,
        run.evaluate,
        run.dataset.test,
        lambda: run.dataset.val if len(run.dataset.val) else None,
        members,
    )


class _Answers(NamedTuple):
    """What a model answers to the images of a split."""

    metrics: dict[str, float]
    logits: Logits
    seconds: float
    temperature: float | None  # of the softmax, fitted on validation; None without any


def _answers(
    params: Any,
    classes: int,
    mesh: jax.sharding.Mesh,
    measure: Measure,
    examples: Split,
    held_out: Callable[[], Split | None] | None,
    members: Members,
) -> _Answers:
    """Takes the examples through the model, and validation, `held_out`; None: it is the same.

    The parameters are those of the process that leads.
    """
    params = devices.replicate(members.broadcast(params, mesh), mesh)
    with stop_request() as stop:
        answer = partial(_answer, measure, params, classes, members.shared(stop))
        start = time.perf_counter()
        metrics, logits = answer(examples)
        seconds = time.perf_counter() - start
        temperature = None
        if held_out is None:
            temperature = measures.fit_temperature(logits, examples.labels)
        else:
            validation = held_out()
            # Where one process has none, none goes through it.
            if all(members.exchange("there" if validation else "")) and validation:
                temperature = measures.fit_temperature(answer(validation)[1], validation.labels)
    return _Answers(metrics, logits, seconds, temperature)


def _made_ready(
    model: Model, examples: Examples, mesh: jax.sharding.Mesh, members: Members
) -> Measure:
    """What takes a split through the model, in all processes alike."""
    compared = {
        "step": str(model.step),
        "images": examples.fingerprint,
        "number of images": str(len(examples.split)),
    }
    members.refuse_differences(alike.program() | alike.settings(model.config) | compared)
    measure = build_evaluate(model.config, model.network, model.mean, model.std, members)
    members.connect(mesh)
    return measure


def _facts(model: Model, examples: Examples, mesh: jax.sharding.Mesh) -> dict[str, Any]:
    """Which images were shown to which model, and by what."""
    parameters, multiply_adds = costs.totals(costs.summarize(model.network.abstract))
    data, epoch = model.record.data, 0.0
    if model.step:
        trained_on = data.splits["train"].examples if data else 0
        epoch = build_plan(model.config, trained_on).epochs(model.step)
    fingerprint = content_fingerprint(examples.split, model.class_names, ordered=True)
    return {
        "num_examples": len(examples.split),
        "fingerprint": examples.fingerprint,
        "examples_fingerprint": fingerprint,
        "step": model.step,
        "epoch": epoch,
        "parameters": parameters,
        "multiply_adds_per_image": multiply_adds,
        "device": device(mesh.devices.flat),
        "host_settings": host.settings(),
        "matmul_precision": precision.in_force(model.config.matmul_precision),
    }


def _record(
    workdir: Path,
    config: ConfigDict,
    results: dict[str, Any],
    beside: dict[str, bytes],
    which: dict[str, Any],
    figures: Sequence[str],
    console: Console,
    *,
    final: bool,
) -> None:
    """Writes what was measured, and says what is written; in a read-only run, that nothing is.

    `which` are the arguments of `results_name`. At the end of training, `final`, a run that cannot
    be written is an error.
    """
    name = partial(results_name, **which)
    try:
        written = write_results(workdir, results=results, beside=beside, final=final, **which)
        if written and name() == results_name(which["split"]):
            _show_best(workdir, config, figures)
    except UserError as error:
        if final or not files.is_read_only(error):
            raise
        lost = ", ".join(name(kind=kind) for kind in ("results.json", *beside))
        console.warn(f"{error}; not recorded: {lost}")
    else:
        if not written:
            console.warn(f"not recorded: {workdir / name()} has the results of a later step")
        elif not final:
            console.note(f"recorded in {written}")
            if beside:
                console.note(f"beside it: {', '.join(name(kind=kind) for kind in beside)}")


def _answer(
    measure: Measure,
    params: Any,
    classes: int,
    stop: Request,
    examples: Split,
) -> tuple[dict[str, float], Logits]:
    logits = np.empty((len(examples), classes), np.float32)
    metrics = measure(params, examples, lambda: bool(stop), logits)
    if metrics is None:
        assert stop.signal is not None
        raise Interrupted(stop.signal, "interrupted: the same command evaluates again")
    return metrics, logits


def _validation(
    model: Model, run: Run | None, data_dir: str | None, console: Console
) -> Split | None:
    """The validation split of the run; None where it has none, or where it cannot be loaded."""
    if run is not None:
        return run.dataset.val if len(run.dataset.val) else None
    data = model.record.data
    if data is None or not data.splits["val"].examples:
        return None
    try:
        examples = load_examples(model, "val", data_dir=data_dir, log=console.note)
    except UserError as error:
        console.note(f"no temperature is fitted: {error}")
        return None
    return None if examples.other else examples.split


def _show_best(workdir: Path, config: ConfigDict, figures: Sequence[str]) -> None:
    """Draws and writes anew what shows the results of the best checkpoint."""
    values = dict(config_lib.flatten(config))
    plot_curves(workdir, f"{titles.of_run(values)}, seed {config.seed}", figures)
    write_card(workdir, config)


def write_card(workdir: Path, config: ConfigDict, among: Iterable[Path] | None = None) -> None:
    """Writes the model card of a run anew, see `write_model_card`."""
    about = attention_class(config.model.attention, config.model.implementation).about
    write_model_card(workdir, dict(config_lib.flatten(config)), about, among)
