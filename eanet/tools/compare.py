"""Compares runs on the same images: accuracy, and paired differences to the first run.

Reads what `--mode=eval`, or the end of training, has left in each run: the results of the best
checkpoint and the predictions, image by image. A model that was handed on, as a file or at the hub,
has left nothing: it answers the images now. docs/evaluation.md says what the columns mean.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from eanet import devices
from eanet.cli import Parser
from eanet.display.console import Console
from eanet.errors import UserError
from eanet.inference import predictions
from eanet.inference.load import load
from eanet.inference.place import ABOUT, Place
from eanet.inference.predictions import Recorded
from eanet.workdir.model_record import SPLITS

RESAMPLES, SEED = 10_000, 0


class Difference(NamedTuple):
    """How a run differs from another on the same images."""

    mean: float  # of the accuracies, in fractions
    low: float  # ends of its 95 % interval
    high: float
    gained: int  # images that only this run has right
    lost: int  # images that only the other one has right
    p_value: float  # of McNemar's exact test


def main(arguments: list[str], prog: str) -> None:
    """The command `compare`."""
    parser = Parser(prog, __doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help=f"{ABOUT}; two or more")
    parser.add_argument(
        "--split", choices=SPLITS, default="test", help="what was evaluated; default: %(default)s"
    )
    options = parser.parse_args(arguments)
    places = [Place.of(run) for run in options.runs]
    alike = [place.path.resolve() if place.path else place.text for place in places]
    for index, place in enumerate(places):
        if alike[index] in alike[:index]:
            raise UserError(f"{place} is given twice: a run does not differ from itself")
    if len(places) < 2:
        raise UserError("there is nothing to compare: give two runs or more")
    console = Console()
    found = [_answers(place, options.split, console) for place in places]
    for place, recorded in zip(places, found, strict=True):
        _refuse_other_images(found[0], recorded, places[0], place, options.split)
    _show(places, found, options.split, console)


def _answers(place: Place, split: str, console: Console) -> Recorded:
    if place.path is not None and not place.is_model_alone:
        return predictions.read(place.path, split)
    with devices.refusals():
        model = load(place.text, log=console.warn)
        return predictions.measured(model, split, console.note)


def difference(one: Bool[np.ndarray, "n"], other: Bool[np.ndarray, "n"]) -> Difference:
    """Of what one run and another have right.

    The interval is the paired bootstrap's: 2.5 and 97.5 per cent of the mean differences of
    `RESAMPLES` draws of as many images with replacement. An image differs by 1, 0 or −1, so that a
    draw of images is a draw of these three counts.
    """
    from scipy.stats import binomtest

    count = len(one)
    gained, lost = int((one & ~other).sum()), int((other & ~one).sum())
    shares = np.array([gained, lost, count - gained - lost]) / count
    draws = np.random.default_rng(SEED).multinomial(count, shares, RESAMPLES)
    low, high = np.percentile((draws[:, 0] - draws[:, 1]) / count, (2.5, 97.5))
    p_value = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    return Difference((gained - lost) / count, low, high, gained, lost, p_value)


def _refuse_other_images(
    one: Recorded, other: Recorded, first: Place, place: Place, split: str
) -> None:
    ours, theirs = (
        [recorded.results.get(key) for key in ("num_examples", "examples_fingerprint")]
        for recorded in (one, other)
    )
    if ours == theirs:
        return
    what = "other images or labels, or in another order"
    if ours[0] != theirs[0]:
        what = f"{theirs[0]:,} images instead of {ours[0]:,}"
    raise UserError(
        f"the {split} split of {place} is not that of {first}: {what}. Only runs that "
        "were evaluated on the same images can be compared"
    )


def _show(places: Sequence[Place], found: Sequence[Recorded], split: str, console: Console) -> None:
    columns = ("run", "accuracy, %", "difference", "95 %", "gained", "lost", "p")
    rows = []
    for number, recorded in enumerate(found, 1):
        row = [str(number), f"{100 * recorded.correct.mean():.2f}"]
        if recorded is not found[0]:
            it = difference(recorded.correct, found[0].correct)
            points = (f"{100 * value:+.2f}" for value in (it.mean, it.low, it.high))
            mean, low, high = (text.replace("-", "−") for text in points)
            row += [mean, f"{low} to {high}", f"{it.gained:,}", f"{it.lost:,}", _p(it.p_value)]
        rows.append(row + [""] * (len(columns) - len(row)))
    count = len(found[0].correct)
    console.table(f"The same {count:,} images of the {split} split", columns, rows)
    # The names stand apart, since a long one would squeeze the figures.
    for number, place in enumerate(places, 1):
        console.note(f"{number}  {place}")
    console.note(
        f"Differences to run 1 in points, paired by image; 95 %: bootstrap, {RESAMPLES:,} draws, "
        f"seed {SEED}."
    )
    console.note("gained, lost: images that only this run, or only run 1, has right.")
    console.note("p: McNemar's exact test. Another seed would differ too: it says nothing of that.")


def _p(value: float) -> str:
    if value < 1e-99:  # below what a float holds it would be zero, which no p-value is
        return "< 1e-99"
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}"
