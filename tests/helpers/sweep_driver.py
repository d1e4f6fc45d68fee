"""`main.py --mode=sweep` with `fake_training.py` in the place of training, and impatient.

python -m tests.helpers.sweep_driver DIR STORAGE WORKERS SWEEP
"""

import sys
from pathlib import Path

from eanet import config as config_lib
from eanet import config_flags
from eanet.sweeps import command
from eanet.sweeps.estimate import RunSize

ROOT = Path(__file__).resolve().parents[2]


def main(directory, storage, workers, sweep):
    module = config_lib.load_module(ROOT / "configs/testing.py")
    config = module.get_config()
    config.num_epochs = 0.1
    options = command.Options(
        directory=Path(directory),
        storage=storage or None,
        workers=int(workers),
        dry_run=False,
        command=lambda workdir: [
            sys.executable,
            str(ROOT / "tests/helpers/fake_training.py"),
            workdir,
        ],
        look=0.05,
        heartbeat=0.2,
        heartbeat_timeout=2.0,
    )
    command.finish = lambda console, directory, figures: None
    command.run_grid(sweep, config.lock(), module, options, lambda config: RunSize(1, 1, 1))


if __name__ == "__main__":
    arguments, sys.argv[1:] = sys.argv[1:], []  # none of them is a flag
    config_flags.run(lambda _: main(*arguments))
