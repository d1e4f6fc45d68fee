"""Other loaders decode a folder of JPEG files: run by the interpreter that has them.

python -m benchmarks.peer_loaders torch|tensorflow FOLDER WORKERS

Counted is from the first batch of 64 on, as the workers have started by then.
"""

import json
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

_BATCH = 64


def torch_loader(paths: Sequence[str], workers: int) -> Iterable[Any]:
    """`torch.utils.data.DataLoader`, decoding by Pillow."""
    import numpy as np
    import torch
    from PIL import Image

    class Photos(torch.utils.data.Dataset):
        """One image a file."""

        def __len__(self) -> int:
            return len(paths)

        def __getitem__(self, index: int) -> torch.Tensor:
            with Image.open(paths[index]) as image:
                return torch.from_numpy(np.array(image.convert("RGB")))

    return torch.utils.data.DataLoader(Photos(), batch_size=_BATCH, num_workers=workers)


def tensorflow_loader(paths: Sequence[str], workers: int) -> Iterable[Any]:
    """`tf.data`, decoding by TensorFlow itself."""
    import tensorflow as tf

    def decode(path: Any) -> Any:
        return tf.io.decode_jpeg(tf.io.read_file(path), channels=3)

    options = tf.data.Options()
    options.threading.private_threadpool_size = workers
    photos = tf.data.Dataset.from_tensor_slices(list(paths)).map(decode, workers)
    return photos.batch(_BATCH).prefetch(4).with_options(options)


LOADERS = {"torch": torch_loader, "tensorflow": tensorflow_loader}


def main(name: str, folder: str, workers: str) -> None:
    """Prints the images per second."""
    paths = sorted(map(str, Path(folder).rglob("*.jpg")))
    batches = iter(LOADERS[name](paths, int(workers)))
    next(batches)
    start, done = time.perf_counter(), 0
    for batch in batches:
        done += len(batch)
    print(json.dumps({"images_per_second": done / (time.perf_counter() - start)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
