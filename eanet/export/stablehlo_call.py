"""Run as a script: calls an exported program on batches of images, with JAX alone.

python stablehlo_call.py PROGRAM IMAGES.npz ANSWERS.npz
"""

import sys
from pathlib import Path

import numpy as np
from jax import export


def main(program: str, images: str, answers: str) -> None:
    """Answers every array of one file in another."""
    exported = export.deserialize(bytearray(Path(program).read_bytes()))
    with np.load(images, allow_pickle=False) as batches:
        np.savez(answers, *(np.asarray(exported.call(batches[name])) for name in batches.files))


if __name__ == "__main__":
    main(*sys.argv[1:])
