"""Which step belongs to which epoch, and after which steps something is to be done."""

import dataclasses
import math

import numpy as np
from jaxtyping import Int

from eanet.errors import UserError
from eanet.rules import Number, Rule

_EPOCHS = Number(0, 1_000_000, above=True)
RULES: dict[str, Rule] = {
    "batch_size": Number(1, 2**31 - 1, whole=True),
    "num_epochs": _EPOCHS,
    "mild_epochs": Number(0, 1_000_000),
    "eval_every_epochs": _EPOCHS,
    "checkpoint_every_epochs": _EPOCHS,
    "checkpoint_every_steps": Number(0, 2**31 - 1, whole=True),
}


@dataclasses.dataclass(frozen=True)
class Plan:
    """Durations in epochs become steps.

    The training examples of all epochs form one stream that is cut into batches, so that a batch
    may reach into the next epoch and none is smaller than the others. All but the number of
    training examples are keys of the config.
    """

    num_examples: int
    batch_size: int
    num_epochs: float
    eval_every_epochs: float
    checkpoint_every_epochs: float
    checkpoint_every_steps: int = 0
    mild_epochs: float = 0.0

    def __post_init__(self) -> None:
        if self.batch_size > self.num_examples:
            raise UserError(
                f"batch_size={self.batch_size} is more than the {self.num_examples} training "
                "examples; choose at most that"
            )
        if self.total_steps * self.batch_size >= 2**31:
            raise UserError(f"num_epochs={self.num_epochs} is more than 2^31 examples in all")

    @property
    def steps_per_epoch(self) -> float:
        """Fractional where the batch size does not divide the number of examples."""
        return self.num_examples / self.batch_size

    @property
    def total_steps(self) -> int:
        """Of the whole training; at least one."""
        return max(1, self.steps(self.num_epochs))

    @property
    def mild_from(self) -> int | None:
        """After how many steps augmentation becomes mild, for the last epochs; None: never.

        Without strong augmentation the network sees images again as they are in the test (He et
        al., arXiv 1909.09148; Ge et al., arXiv 2107.08430).
        """
        if not self.mild_epochs:
            return None
        return self.steps(max(0.0, self.num_epochs - self.mild_epochs))

    def steps(self, epochs: float) -> int:
        """The steps after which this many epochs are complete."""
        return math.ceil(epochs * self.num_examples / self.batch_size - 1e-6)

    def epochs(self, step: int) -> float:
        """How many epochs this many steps are; whole where a step completes an epoch."""
        epochs = step * self.batch_size / self.num_examples
        whole = math.floor(epochs)
        return float(whole) if whole and self.steps(whole) == step else round(epochs, 6)

    def epoch_of(self, step: int) -> int:
        """The epoch, from 0, in whose order of examples the batch of this step begins."""
        return step * self.batch_size // self.num_examples

    def epochs_of(self, step: int) -> Int[np.ndarray, "{self.batch_size}"]:
        """Of each example of the batch of this step."""
        first = step * self.batch_size
        return np.arange(first, first + self.batch_size) // self.num_examples

    def offset_in_epoch(self, step: int) -> int:
        """The position in that order at which the batch begins."""
        return step * self.batch_size % self.num_examples

    def next_event(self, step: int) -> int:
        """The first step after `step` at which the order changes or something is to be done."""
        order_ends = self.steps(self.epoch_of(step) + 1)
        every = (self.eval_every_epochs, self.checkpoint_every_epochs)
        events = [self.total_steps, order_ends, *(self._next(step, each) for each in every)]
        if self.checkpoint_every_steps:
            events.append(step - step % self.checkpoint_every_steps + self.checkpoint_every_steps)
        return min(events)

    def validates_at(self, step: int) -> bool:
        """Whether to validate after this step."""
        return self._is_multiple(step, self.eval_every_epochs) or step == self.total_steps

    @property
    def validations(self) -> int:
        """How often the whole training validates."""
        step = count = 0
        while step < self.total_steps:
            step = min(self._next(step, self.eval_every_epochs), self.total_steps)
            count += 1
        return count

    def reports_at(self, step: int) -> bool:
        """Whether to report the training metrics after this step."""
        return self._is_multiple(step, 1.0) or self.validates_at(step)

    def saves_at(self, step: int) -> bool:
        """Whether to save after this step."""
        every = self.checkpoint_every_steps
        if every and step > 0 and step % every == 0:
            return True
        return self._is_multiple(step, self.checkpoint_every_epochs) or step == self.total_steps

    def _next(self, step: int, every: float) -> int:
        """The first step after `step` that completes a multiple of `every` epochs."""
        every = max(every, 1 / self.steps_per_epoch)  # more often than at every step it cannot be
        count = math.floor(self.epochs(step) / every)
        while self.steps(count * every) <= step:
            count += 1
        return self.steps(count * every)

    def _is_multiple(self, step: int, every: float) -> bool:
        return step > 0 and self._next(step - 1, every) == step
