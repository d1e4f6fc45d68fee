"""What a sweep says, in sentences: which setting is best, and why that may mean nothing."""

from collections.abc import Sequence

from eanet.sweeps.records import SweepRecord
from eanet.sweeps.statistics import (
    Setting,
    baseline,
    leaders,
    settings,
    unsure_by_images,
    unsure_by_seeds,
)

_FEW = 6  # settings in a sentence


def warnings(sweep: SweepRecord, found: Sequence[Setting], first: Sequence[Setting]) -> list[str]:
    """Why differences in the table may mean nothing."""
    if not first or len(found) < 2:
        return []
    leader, told = first[0], []
    compared, name = baseline(found) or leader, "baseline" if baseline(found) else "best"
    if leader.validation.count == 1:
        told.append(
            "Every setting has one finished run (n = 1): what another seed would change is not "
            "known, so that no difference here tells settings apart. Several seeds do, as with "
            "seed=0..2."
        )
    elif unsure := unsure_by_seeds(found, compared):
        told.append(
            f"By their seeds not told apart from the {name}, as 0 lies in the 95 % interval of the "
            f"paired difference (Student's t): {_named(unsure)}."
        )
    images = min(
        (run.data.splits["val"].examples for run in sweep.runs if run.data is not None), default=0
    )
    if images and (unsure := unsure_by_images(found, compared, images)):
        told.append(
            f"Validation has {images:,} images. Other images might order these and the {name} "
            f"differently (95 % interval of a difference of binomial shares): {_named(unsure)}."
        )
    return told


def conclusion(sweep: SweepRecord) -> str:
    """What a sweep says in one sentence or two."""
    found = settings(sweep)
    first = leaders(found)
    if not first:
        return "No run has finished yet."
    so_far = " so far" if any(run.state in ("waiting", "unfinished") for run in sweep.runs) else ""
    lead = f"Best on validation{so_far}, of the settings with most finished runs"
    if len(first) > 1:
        differences = "" if baseline(found) else " Differences are to the first of them."
        return (
            f"{lead}, are equally: {_named(first)}. None is chosen, and no test accuracy is "
            f"reported.{differences}"
        )
    test = f"{first[0].test.percent()} % (n = {first[0].test.count})"
    if len(found) == 1:
        return f"Test accuracy of the checkpoints that were best on validation{so_far}: {test}."
    return f"{lead}: {first[0].name}. Only of it the test accuracy is reported: {test}."


def notes(sweep: SweepRecord, found: Sequence[Setting], first: Sequence[Setting]) -> list[str]:
    """The conclusion, and what the numbers of the table are."""
    told = [conclusion(sweep)]
    if not first:
        return told
    told.append(
        "Validation accuracy is that of each run's best checkpoint, averaged over the n finished "
        "runs; ± is the standard deviation over seeds."
    )
    if len(found) > 1:
        told[-1] += " The best of many is a little lucky."
        told.append(
            "A paired difference is over the seeds that finished in both settings, as many as "
            "stand in brackets."
        )
    other = [run.name for run in sweep.runs if run.results and not run.test]
    if other:
        told.append(
            f"Left out: the test results of {', '.join(other)}, which are of another checkpoint "
            "than the best; python main.py --mode=eval --workdir=RUN evaluates the best."
        )
    if any(run.latency is not None for run in sweep.runs):
        device = sweep.latency["device"]
        told.append(f"Latency: median time of one image at a time on {device}.")
    return told


def _named(found: Sequence[Setting]) -> str:
    names = [setting.name for setting in found[:_FEW]]
    return "; ".join(names) + (f"; and {len(found) - _FEW} more" if len(found) > _FEW else "")
