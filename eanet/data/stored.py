"""Images that stay where they are stored until they are looked at."""

from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from eanet.data import images as images_lib
from eanet.data.base import Images, Reference
from eanet.data.crop import Crop
from eanet.data.reading import look
from eanet.data.workers import Workers
from eanet.host import cores

# Examples that a worker is asked for at once.
_TASK = 16


class _Examples(NamedTuple):
    """Where some examples are, what they were when they were first looked at, and their parts."""

    references: list[Reference]
    digests: list[str]
    crops: list[Crop] | None  # None for the whole images

    def part(self, start: int, count: int) -> "_Examples":
        chosen = slice(start, start + count)
        crops = self.crops and self.crops[chosen]
        return _Examples(self.references[chosen], self.digests[chosen], crops)


class StoredImages:
    """`uint8[N, H, W, C]`, decoded anew whenever they are looked at.

    As of an array, a slice or a mask of them are others like them. Whole numbers give pixels, and
    so does `np.asarray`; for many images there is `ahead`.
    """

    dtype, ndim = np.dtype(np.uint8), 4

    def __init__(
        self,
        workers: Workers,
        references: Sequence[Reference],
        survey: np.ndarray,
        index: np.ndarray | None = None,
    ):
        """All that a source has of one part, or those of them that `index` says.

        `survey` holds what was seen of each, see `eanet.data.reading.look`.
        """
        self._workers, self._references, self._survey = workers, references, survey
        self._index = np.arange(len(references)) if index is None else index

    def __len__(self) -> int:
        return len(self._index)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the array that they are."""
        return len(self), *self._workers.recipe.image_shape

    @property
    def nbytes(self) -> int:
        """Of all pixels, were they decoded."""
        return int(np.prod(self.shape, dtype=np.int64))

    def by(self, workers: int) -> "StoredImages":
        """The same, decoded by so many workers."""
        pool = Workers(self._workers.recipe, workers)
        return StoredImages(pool, self._references, self._survey, self._index)

    @property
    def survey(self) -> np.ndarray:
        """What was seen of each image when it was first looked at."""
        return self._survey[self._index]

    def __getitem__(self, chosen: Any) -> Any:
        index = self._index[chosen]
        if isinstance(chosen, slice) or getattr(chosen, "dtype", None) is np.dtype(bool):
            return StoredImages(self._workers, self._references, self._survey, index)
        pixels = self._decoded(self._examples(index.reshape(-1)))
        return pixels.reshape(*index.shape, *self.shape[1:])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("images that are stored in files become an array by a copy alone")
        return self._decoded(self._examples(self._index)).astype(dtype or np.uint8, copy=False)

    def ahead(self, requests: Iterable[Any], most: int) -> Generator[np.ndarray, None, None]:
        """The pixels of each request, decoded by workers; see the function `ahead`."""
        return self._ahead((self._examples(self._index[each]) for each in requests), most)

    def _ahead(self, requests: Iterable[_Examples], most: int) -> Generator[np.ndarray, None, None]:
        with self._workers.running():
            waiting: deque[tuple[np.ndarray, list[Future[None]]]] = deque()
            try:
                for request in requests:
                    waiting.append(self._asked(request))
                    if len(waiting) > most:
                        yield _done(*waiting.popleft())
                while waiting:
                    yield _done(*waiting.popleft())
            finally:
                for _, tasks in waiting:
                    for task in tasks:
                        task.cancel()

    def _decoded(self, examples: _Examples) -> np.ndarray:
        """The pixels of a few images, decoded in this process."""
        pixels = np.empty((len(examples.references), *self.shape[1:]), np.uint8)

        def decode(place: int) -> None:
            one, out = examples.part(place, 1), pixels[place : place + 1]
            look("pixels", self._workers.recipe, one.references, out, one.digests, one.crops)

        with images_lib.quietly(), ThreadPoolExecutor(cores()) as pool:
            list(pool.map(decode, range(len(pixels))))
        return pixels

    def _asked(self, examples: _Examples) -> tuple[np.ndarray, list[Future[None]]]:
        pixels = np.empty((len(examples.references), *self.shape[1:]), np.uint8)
        tasks = []
        for start in range(0, len(pixels), _TASK):
            few, out = examples.part(start, _TASK), pixels[start : start + _TASK]
            submit = self._workers.submit
            tasks.append(submit("pixels", few.references, out, few.digests, few.crops))
        return pixels, tasks

    def _examples(self, index: np.ndarray, crops: list[Crop] | None = None) -> _Examples:
        references = [self._references[place] for place in index]
        digests = [bytes(digest).hex() for digest in self._survey["digest"][index]]
        return _Examples(references, digests, crops)


class Crops:
    """Random parts of stored images, see `eanet.data.crop`, others in every epoch.

    As of an array of all epochs, one after the other: entry `epoch * N + i` is a part of image `i`
    of N, in the size that all have, and a function of the seed, the epoch and `i`.
    """

    def __init__(self, images: StoredImages, least_area: float, seed: int):
        """`least_area` is a fraction of each image's."""
        self._images, self._least_area, self._seed = images, least_area, seed

    def __getitem__(self, entries: np.ndarray) -> np.ndarray:
        return self._images._decoded(self._examples(entries))

    def ahead(self, requests: Iterable[Any], most: int) -> Generator[np.ndarray, None, None]:
        """See the function `ahead`."""
        return self._images._ahead(map(self._examples, requests), most)

    def _examples(self, entries: np.ndarray) -> _Examples:
        epochs, chosen = np.divmod(entries, len(self._images))
        drawn = zip(epochs.tolist(), chosen.tolist(), strict=True)
        crops = [Crop(self._least_area, self._seed, epoch, one) for epoch, one in drawn]
        return self._images._examples(self._images._index[chosen], crops)


def ahead(
    images: Images | Crops, requests: Iterable[Any], most: int
) -> Generator[np.ndarray, None, None]:
    """The images of each request, a slice or whole numbers, in the order of the requests.

    Of stored images as many as `most` requests beyond the one that is waited for are decoded
    meanwhile, and so much memory is used. To close the iterator ends the processes that do so.

    Raises:
        UserError: an image cannot be read; the message names it.
    """
    if isinstance(images, StoredImages | Crops):
        return images.ahead(requests, most)
    return (images[request] for request in requests)


def _done(pixels: np.ndarray, tasks: list[Future[None]]) -> np.ndarray:
    for task in tasks:
        task.result()
    return pixels
