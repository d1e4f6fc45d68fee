"""Trains, evaluates or sweeps EANet; see README.md.

python main.py --config=configs/eanet_cifar100.py [--workdir=DIR] [--config.KEY=VALUE ...]
python main.py --mode=eval --workdir=DIR [--checkpoint=best|latest|STEP] [--split=test|val|train]
python main.py --mode=replay --workdir=DIR     the step that made a run fail, layer by layer
"""

from collections.abc import Sequence
from pathlib import Path

from eanet import host

if __name__ == "__main__":
    host.set_up()  # before JAX is imported

from absl import flags
from ml_collections import config_flags

from eanet import config as config_lib
from eanet.errors import UserError

CONFIG = config_lib.DEFINE_config()
WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run; default: runs/CONFIG_NAME.")
MODE = flags.DEFINE_enum("mode", "train", ["train", "eval", "replay"], "What to do.")
CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "For eval: best, latest or a step.")
SPLIT = flags.DEFINE_enum("split", "test", ["test", "val", "train"], "For eval: what to look at.")
flags.DEFINE_bool("host_setup", True, "Set allocator and devices for XLA's CPU backend.")


def main(arguments: Sequence[str]) -> None:
    """Picks the mode and calls it."""
    del arguments
    import train  # after the flags, so that a mistyped one is answered at once

    if MODE.value in ("eval", "replay"):
        if WORKDIR.value is None:
            raise UserError(f"--mode={MODE.value} needs --workdir=DIR, the directory of a run")
        workdir = Path(WORKDIR.value)
        if MODE.value == "replay":
            train.replay(workdir)
        else:
            train.evaluate(workdir, checkpoint=CHECKPOINT.value, split=SPLIT.value)
        return
    if CONFIG.value is None:
        raise UserError("--config=FILE is missing, for example configs/eanet_cifar100.py")
    name = Path(config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")[0]).stem
    train.train(CONFIG.value, Path(WORKDIR.value or f"runs/{name}"))


if __name__ == "__main__":
    config_lib.run(main)
