"""How training examples come to the devices: all of them once, or batch by batch.

Which examples a step takes is a function of seed and step alone, and the same in both ways.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int

from eanet import devices
from eanet.data.base import Split, budget
from eanet.data.stored import Crops, ahead
from eanet.errors import UserError
from eanet.training.plan import Plan

# Bytes of images, and batches, that are handed to the devices at once where they are streamed.
_WINDOW, _MOST_BATCHES = 2**25, 16
# Windows that wait, are filled or are on a device at once.
_WINDOWS = 6

# Of a step and a number of steps, `images, labels, order, start` of `make_train_steps`.
Take = Callable[[int, int], tuple[Any, Any, Any, int]]


class Feed(Protocol):
    """The training examples, in the order of the epochs."""

    most: int  # steps whose examples can be had at once

    def shapes(self) -> tuple[Any, Any, Any]:
        """Shapes, types and places of the `images, labels, order` that `begin` hands out."""
        ...

    def begin(self, step: int) -> contextlib.AbstractContextManager[Take]:
        """Hands out the examples of the steps from this one on, one after the other."""
        ...


class Resident:
    """Every device holds a copy of all examples."""

    most = 2**31 - 1

    def __init__(
        self, examples: Split, plan: Plan, mesh: Mesh, order: Callable[[int], Int[Array, "n"]]
    ):
        """`order` gives the indices of an epoch, see `eanet.training.batches.epoch_order`."""
        self._examples, self._plan, self._mesh, self._order = examples, plan, mesh, order

    def shapes(self) -> tuple[Any, Any, Any]:
        """See `Feed`."""
        place = devices.replicated(self._mesh)
        order = jax.eval_shape(lambda: self._order(0))
        leaves = self._examples.images, self._examples.labels, order
        images, labels, order = (_abstract(leaf.shape, leaf.dtype, place) for leaf in leaves)
        return images, labels, order

    @contextlib.contextmanager
    def begin(self, step: int) -> Iterator[Take]:
        """See `Feed`; the steps may come in any order."""
        examples = self._examples.images, self._examples.labels
        images, labels = devices.replicate(examples, self._mesh)

        @functools.lru_cache(1)
        def order(epoch: int) -> jax.Array:
            return devices.replicate(self._order(epoch), self._mesh)

        def take(step: int, count: int) -> tuple[Any, Any, Any, int]:
            return (
                images,
                labels,
                order(self._plan.epoch_of(step)),
                self._plan.offset_in_epoch(step),
            )

        yield take


class Streamed:
    """The devices get batches a few at a time, each device its part; more are read meanwhile."""

    def __init__(
        self,
        examples: Split,
        plan: Plan,
        mesh: Mesh,
        order: Callable[[int], Int[Array, "n"]],
        crops: Crops | None = None,
    ):
        """As of `Resident`; `crops` take the place of the images."""
        self._examples, self._plan, self._order, self._crops = examples, plan, order, crops
        self._place = NamedSharding(mesh, PartitionSpec(None, devices.BATCH_AXIS))
        self._own = devices.own_part(mesh, plan.batch_size)  # all that this process reads
        self._batch_shape = plan.batch_size, *examples.images.shape[1:]
        fitting = _WINDOW // int(np.prod(self._batch_shape))
        self.most = min(max(fitting, 1), _MOST_BATCHES)
        needed = _WINDOWS * int(np.prod(self._batch_shape))
        if not fitting and needed > budget():
            raise UserError(
                f"while they are streamed, {_WINDOWS} batches of {plan.batch_size} images of "
                f"{'x'.join(map(str, self._batch_shape[1:]))} need {needed / 1e9:.1f} GB, more "
                "than half of this machine's memory; take a smaller batch_size or "
                "dataset.image_size"
            )

    def shapes(self) -> tuple[Any, Any, Any]:
        """See `Feed`."""
        images = _abstract((self.most, *self._batch_shape), np.uint8, self._place)
        return images, _abstract(images.shape[:2], np.int32, self._place), None

    @contextlib.contextmanager
    def begin(self, step: int) -> Iterator[Take]:
        """See `Feed`. To take raises `UserError` for an example that cannot be read."""
        plan = self._plan

        @functools.lru_cache(2)
        def order(epoch: int) -> np.ndarray:
            return np.asarray(self._order(epoch))

        def indices(step: int) -> np.ndarray:
            start = plan.offset_in_epoch(step)
            return order(plan.epoch_of(step))[start : start + plan.batch_size][self._own]

        def entries(step: int) -> np.ndarray:
            return indices(step) + plan.epochs_of(step)[self._own] * plan.num_examples

        images, asked = self._examples.images, indices
        if self._crops is not None:
            images, asked = self._crops, entries
        requests = map(asked, range(step, plan.total_steps))
        with contextlib.closing(ahead(images, requests, 2 * self.most)) as batches:

            def take(step: int, count: int) -> tuple[Any, Any, Any, int]:
                own = self._own.stop - self._own.start
                images = np.empty((self.most, own, *self._batch_shape[1:]), np.uint8)
                labels = np.zeros(images.shape[:2], np.int32)
                for place in range(count):
                    images[place] = next(batches)
                    labels[place] = self._examples.labels[indices(step + place)]
                whole = self.most, *self._batch_shape
                return (
                    devices.put_part(images, self._place, whole),
                    devices.put_part(labels, self._place, whole[:2]),
                    None,
                    0,
                )

            yield take


def _abstract(shape: tuple[int, ...], dtype: Any, place: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jax.dtypes.canonicalize_dtype(dtype), sharding=place)
