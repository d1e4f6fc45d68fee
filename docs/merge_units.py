"""What is left of a model when its memory units are merged, or all but the first are dropped.

python -m docs.merge_units RUN 14 12 8

Prints for each number of units the test accuracy, and how often the answer is that of the whole
model; nothing is trained.
"""

import dataclasses
import sys
from pathlib import Path

import jax
import numpy as np

import eanet
from eanet.checkpoints import storage
from eanet.config import override
from eanet.inference.model import Model
from eanet.training.run import build_model, set_up
from eanet.transfer.fit import UNIT_AXIS, fit
from eanet.transfer.weights import read_weights
from eanet.workdir import model_record


def smaller(whole: Model, run: str, units: int, *, merged: bool) -> Model:
    """The model with so many units."""
    config = override(whole.config, {"model.memory_size": units})
    network = build_model(config, len(whole.class_names), whole.image_shape)
    initial = jax.tree.map(
        lambda leaf: np.zeros(leaf.shape, leaf.dtype), jax.eval_shape(network.init, 0)
    )
    params, _ = fit(
        read_weights(run, print),
        initial,
        grid=network.abstract.patch_embed.grid,
        model=config.model.to_dict(),
        class_names=whole.class_names,
    )
    if not merged:
        named = storage.named(whole.params)
        for name, axis in UNIT_AXIS.items():
            named[name] = np.take(named[name], range(units), axis)
        params = jax.tree.unflatten(jax.tree.structure(initial), list(named.values()))
    return dataclasses.replace(whole, config=config, params=params, network=network)


def main(run: str, *sizes: str) -> None:
    """The command."""
    whole = eanet.load(run)
    test = set_up(whole.config, print, known=model_record.read(Path(run))).dataset.test
    images = np.asarray(test.images)
    answers = whole.predict(images).argmax(-1)
    print(f"{'units':>10}  accuracy, %  as the whole model, %")
    print(f"{whole.config.model.memory_size:>10}  {100 * (answers == test.labels).mean():.1f}")
    for size in map(int, sizes):
        for merged in (True, False):
            found = smaller(whole, run, size, merged=merged).predict(images).argmax(-1)
            shares = ((found == labels).mean() for labels in (test.labels, answers))
            kind = "merged" if merged else "first"
            print(f"{size:>3} {kind}  " + "  ".join(f"{100 * share:.1f}" for share in shares))


if __name__ == "__main__":
    main(*sys.argv[1:])
