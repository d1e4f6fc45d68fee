"""Image files are decoded ahead, in order, while the model answers those before."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from eanet.data import images as images_lib
from eanet.data.base import budget
from eanet.errors import UserError
from eanet.workdir.model_record import ModelRecord


@dataclass(frozen=True)
class Pixels:
    """An image as a model takes it."""

    values: np.ndarray  # `uint8[H, W, C]`
    resized: bool  # whether the file has another size


def decode_ahead(
    record: ModelRecord, resize: str, paths: Iterable[str], *, most: int
) -> Iterator[tuple[str, Pixels | UserError]]:
    """Each path with its image, or with what is wrong with it, in their order.

    At most so many images exist at once; in full size as many as memory has room for, were each the
    largest that is decoded at all.
    """
    waiting: deque[tuple[str, Future[Pixels | UserError]]] = deque()
    side = int((Image.MAX_IMAGE_PIXELS or 2**27) ** 0.5)
    pool = ThreadPoolExecutor(images_lib.threads_within(budget(), side, side))
    try:
        for path in paths:
            waiting.append((path, pool.submit(_decoded, record, resize, path)))
            if len(waiting) == most:
                first, image = waiting.popleft()
                yield first, image.result()
        while waiting:
            path, image = waiting.popleft()
            yield path, image.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _decoded(record: ModelRecord, resize: str, path: str) -> Pixels | UserError:
    """The image as evaluation decodes it, resized where the model takes another size.

    Where the model knows no scale of 16-bit images, they are taken as using all of their bits.
    """
    height, width, channels = record.image_shape
    try:
        return Pixels(
            *images_lib.read(
                Path(path),
                channels=channels,
                bits=record.bits or 16,
                size=(height, width),
                resize=resize,
            )
        )
    except UserError as error:
        return error
