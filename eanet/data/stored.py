"""Images that stay where they are stored until they are looked at."""

from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from eanet.data import images as images_lib
from eanet.data.base import Images, Reference
from eanet.data.reading import look
from eanet.data.workers import Workers
from eanet.host import cores

# Examples that a worker is asked for at once.
_TASK = 16


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
        return self._decoded(index.reshape(-1)).reshape(*index.shape, *self.shape[1:])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("images that are stored in files become an array by a copy alone")
        return self._decoded(self._index).astype(dtype or np.uint8, copy=False)

    def ahead(self, requests: Iterable[Any], most: int) -> Generator[np.ndarray, None, None]:
        """The pixels of each request, decoded by workers; see the function `ahead`."""
        with self._workers.running():
            waiting: deque[tuple[np.ndarray, list[Future[None]]]] = deque()
            try:
                for request in requests:
                    waiting.append(self._asked(self._index[request]))
                    if len(waiting) > most:
                        yield _done(*waiting.popleft())
                while waiting:
                    yield _done(*waiting.popleft())
            finally:
                for _, tasks in waiting:
                    for task in tasks:
                        task.cancel()

    def _decoded(self, index: np.ndarray) -> np.ndarray:
        """The pixels of a few images, decoded in this process."""
        pixels = np.empty((len(index), *self.shape[1:]), np.uint8)

        def decode(place: int) -> None:
            references, digests = self._question(index[place : place + 1])
            look("pixels", self._workers.recipe, references, pixels[place : place + 1], digests)

        with images_lib.quietly(), ThreadPoolExecutor(cores()) as pool:
            list(pool.map(decode, range(len(index))))
        return pixels

    def _asked(self, index: np.ndarray) -> tuple[np.ndarray, list[Future[None]]]:
        pixels = np.empty((len(index), *self.shape[1:]), np.uint8)
        tasks = []
        for start in range(0, len(index), _TASK):
            references, digests = self._question(index[start : start + _TASK])
            out = pixels[start : start + _TASK]
            tasks.append(self._workers.submit("pixels", references, out, digests))
        return pixels, tasks

    def _question(self, index: np.ndarray) -> tuple[list[Reference], list[str]]:
        """Where these examples are, and what they were when they were first looked at."""
        references = [self._references[place] for place in index]
        return references, [bytes(digest).hex() for digest in self._survey["digest"][index]]


def ahead(images: Images, requests: Iterable[Any], most: int) -> Generator[np.ndarray, None, None]:
    """The images of each request, a slice or whole numbers, in the order of the requests.

    Of stored images as many as `most` requests beyond the one that is waited for are decoded
    meanwhile, and so much memory is used. To close the iterator ends the processes that do so.

    Raises:
        UserError: an image cannot be read; the message names it.
    """
    if isinstance(images, StoredImages):
        return images.ahead(requests, most)
    return (images[request] for request in requests)


def _done(pixels: np.ndarray, tasks: list[Future[None]]) -> np.ndarray:
    for task in tasks:
        task.result()
    return pixels
