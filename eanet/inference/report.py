"""What an evaluation tells beyond accuracy and loss: more numbers, tables and pictures."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from eanet.data.base import Split
from eanet.display import evaluation_pictures as pictures
from eanet.display import spreadsheet
from eanet.display.numbers import percent
from eanet.display.plot_style import as_files
from eanet.inference import measures, predictions
from eanet.inference.measures import Answers, ByClass

_MOST_CLASSES = 1000  # of a confusion matrix that is written and drawn


class Report(NamedTuple):
    """A model's answers to the images of a split, and what follows from them."""

    answers: Answers
    by_class: ByClass
    temperature: float | None  # fitted on validation
    tempered: Answers | None  # at this temperature; None where it was fitted on these very images

    @classmethod
    def of(
        cls, logits: Float[np.ndarray, "n classes"], labels: np.ndarray, temperature: float | None,
        *, fitted_here: bool,
    ) -> "Report":  # fmt: skip
        """Of finite logits; `fitted_here` says that the temperature is that of these images."""
        tempered = None
        if temperature is not None and not fitted_here:
            tempered = measures.answers(logits, labels, temperature)
        answers = measures.answers(logits, labels)
        return cls(answers, measures.by_class(answers, logits.shape[1]), temperature, tempered)

    @property
    def numbers(self) -> dict[str, Any]:
        """What `results_SPLIT.json` has besides; nothing that was not measured."""
        found = {
            "balanced_accuracy": self.by_class.balanced_accuracy,
            "nll": measures.nll(self.answers),
            "ece": measures.reliability(self.answers).error,
        }
        if self.temperature is not None:
            found["temperature"] = self.temperature
        if self.tempered is not None:
            found["ece_at_temperature"] = measures.reliability(self.tempered).error
        return found

    def files(
        self, where: str, examples: Split, class_names: Sequence[str], figures: Sequence[str]
    ) -> dict[str, bytes]:
        """The files by their kind, with pictures of the kinds `figures`.

        `where` completes a title, as "of EANet on the test split of CIFAR-100".
        """
        made = {
            "predictions.csv": predictions.table(self.answers, class_names),
            "classes.csv": self._classes(class_names),
        }
        drawn = {
            "calibration": self._calibration(where),
            "mistakes": self._mistakes(where, examples.images, class_names),
        }
        if len(class_names) <= _MOST_CLASSES:
            confusion = self.by_class.confusion
            rows = ([name, *row] for name, row in zip(class_names, confusion, strict=True))
            made["confusion.csv"] = spreadsheet.table(["label", *class_names], rows)
            title = f"Confusions {where}"
            drawn["confusion"] = pictures.draw_confusion(title, confusion, class_names)
        for name, figure in drawn.items():
            made |= as_files(name, figure, figures)
        return made

    def _classes(self, class_names: Sequence[str]) -> bytes:
        _, *columns = self.by_class
        return spreadsheet.table(
            ["class", "images", "accuracy", "precision"], zip(class_names, *columns, strict=True)
        )

    def _calibration(self, where: str) -> Any:
        panels = {"as trained": self.answers}
        if self.tempered is not None:
            panels[f"at temperature {self.temperature:.3f}"] = self.tempered
        bins = {name: measures.reliability(answers) for name, answers in panels.items()}
        return pictures.draw_calibration(
            f"Calibration {where}",
            {f"{name}: ECE {percent(found.error)}": found for name, found in bins.items()},
        )

    def _mistakes(self, where: str, images: np.ndarray, class_names: Sequence[str]) -> Any:
        labels, predicted, confidences, *_ = self.answers
        wrong = np.flatnonzero(~self.answers.correct)
        surest = wrong[np.argsort(-confidences[wrong], kind="stable")][: pictures.MISTAKES]
        captions = [
            (
                f"{pictures.short(class_names[predicted[index]])}, {percent(confidences[index])}",
                f"is {pictures.short(class_names[labels[index]])}",
            )
            for index in surest
        ]
        return pictures.draw_mistakes(f"Surest mistakes {where}", images[surest], captions)
