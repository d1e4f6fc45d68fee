"""Trains, evaluates, asks or sweeps EANet; see README.md.

python main.py --config=configs/eanet_cifar100.py [--workdir=DIR] [--config.KEY=VALUE ...]
python main.py --workdir=DIR [--extend_to=EPOCHS]    # goes on with the run there
python main.py --config=FILE --distributed [--heartbeat_timeout=SECONDS] [...]    # on every host
    [--coordinator=HOST:PORT --num_processes=N --process_id=I]    # where no cluster is found
python main.py --mode=eval --workdir=DIR [--checkpoint=best|latest|STEP] [--split=test|val|train]
    [--dataset=NAME] [--data_dir=DIR]    # on other data, or where the data is now
    [--distributed ...]    # as training
    [--figures=png,svg,pdf]    # kinds of files of pictures; also for training and sweeps
python main.py --deterministic ...    # the same bytes each time on a GPU too
python main.py --mode=predict --workdir=DIR --images=PATH [--images=...] [--top=5] [--out=FILE]
    [--resize=squash|crop|pad] [--strict] [--checkpoint=best|latest|STEP]
python main.py --mode=eval|predict --workdir=hf:USER/NAME[@REVISION] ...    # a model of the hub
python main.py --mode=replay --workdir=DIR    # the step that made a run fail, layer by layer
python main.py --mode=sweep --config=FILE --sweep=NAME|RUNS [--dry_run] [--workers=N]
    [--storage=URL] [--search=tpe|random --trials=N] [--workdir=DIR] [--config.KEY=VALUE ...]
python main.py --config=FILE --seeds=N [--workers=N] [...]    # a sweep over N seeds of a config
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from eanet import config as config_lib
from eanet import config_flags, host, hub, signals
from eanet.cluster import address
from eanet.data import resize
from eanet.display import plot_style
from eanet.errors import UserError
from eanet.files import local_path
from eanet.stopwatch import Stopwatch

FLAGS = flags.FLAGS
CONFIG = config_flags.DEFINE_config()
WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Directory of the run; default: runs/CONFIG_NAME. For eval and predict also hf:USER/NAME.",
)
EXTEND_TO = flags.DEFINE_float(
    "extend_to", None, "For training: epochs in all of a run that is there, more than it was for."
)
MODE = flags.DEFINE_enum(
    "mode", "train", ["train", "eval", "predict", "replay", "sweep"], "What to do."
)
CHECKPOINT = flags.DEFINE_string(
    "checkpoint", "best", "For eval and predict: best, latest or a step."
)
SPLIT = flags.DEFINE_enum("split", "test", ["test", "val", "train"], "For eval: what to look at.")
DATASET = flags.DEFINE_string("dataset", None, "For eval: other data than that of the run.")
DATA_DIR = flags.DEFINE_string("data_dir", None, "For eval: where the data is.")
FIGURES = config_flags.FIGURES
IMAGES = flags.DEFINE_multi_string(
    "images",
    None,
    "For predict: an image, a folder, a glob, a .txt with a path a line, or - for one on standard "
    "input; several times for more.",
)
TOP = flags.DEFINE_integer("top", None, "For predict: classes of each image; default: up to 5.")
OUT = flags.DEFINE_string(
    "out", None, "For predict: FILE.csv, .jsonl or .parquet, which is replaced where it is there."
)
RESIZE = flags.DEFINE_enum(
    "resize",
    None,
    list(resize.RESIZES),
    "For predict: images of another size; default: as those the model was trained on.",
)
STRICT = flags.DEFINE_bool(
    "strict", False, "For predict: end with exit code 2 where an image could not be read."
)
SWEEP = flags.DEFINE_string(
    "sweep",
    None,
    "A sweep or search of the config file, or runs: 'model.memory_size=4,16;seed=0..2'.",
)
SEEDS = flags.DEFINE_integer(
    "seeds", None, "So many seeds, from the config's on: a sweep of its own.", lower_bound=1
)
DRY_RUN = flags.DEFINE_bool("dry_run", False, "For sweep: only list the runs.")
WORKERS = flags.DEFINE_integer("workers", 1, "For sweep: runs at once on this machine.")
STORAGE = flags.DEFINE_string("storage", None, "For sweep: URL of a database for many machines.")
SEARCH = flags.DEFINE_enum("search", None, ["tpe", "random"], "For sweep: search this way.")
TRIALS = flags.DEFINE_integer("trials", 20, "For search: runs in all.")
DISTRIBUTED = flags.DEFINE_bool(
    "distributed",
    False,
    "Train or evaluate with the processes of this SLURM, Open MPI or Kubernetes job or TPU pod.",
)
COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "For training and eval by several processes: HOST:PORT of process 0."
)
NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "With --coordinator: how many processes.", lower_bound=1
)
PROCESS_ID = flags.DEFINE_integer(
    "process_id", None, "With --coordinator: which one this is, from 0.", lower_bound=0
)
HEARTBEAT_TIMEOUT = flags.DEFINE_float(
    "heartbeat_timeout",
    address.HEARTBEAT_TIMEOUT,
    "For several processes: seconds without a sign of life after which one of them is gone.",
    lower_bound=3,
)
STOP_AT_EOF = flags.DEFINE_bool("stop_at_eof", False, "Stop when standard input ends.")
DETERMINISTIC = flags.DEFINE_bool(
    "deterministic", False, "On a GPU: add up in the same order each time, at some cost of speed."
)
HOST_SETUP = flags.DEFINE_bool("host_setup", True, "A CPU device for each core.")

# The flags that only these modes read; in another one they are refused.
MODES = {
    "config": ("train", "sweep"),
    "extend_to": ("train",),
    **dict.fromkeys(
        ("distributed", "coordinator", "num_processes", "process_id", "heartbeat_timeout"),
        ("train", "eval"),
    ),
    "checkpoint": ("eval", "predict"),
    **dict.fromkeys(("split", "dataset", "data_dir"), ("eval",)),
    "figures": ("train", "eval", "sweep"),
    **dict.fromkeys(("images", "top", "out", "resize", "strict"), ("predict",)),
    # Of which --images=- takes the standard input.
    "stop_at_eof": ("train", "eval", "replay", "sweep"),
    **dict.fromkeys(
        ("sweep", "seeds", "dry_run", "workers", "storage", "search", "trials"), ("sweep",)
    ),
}


def set_up_host() -> None:
    """Makes the environment that JAX is to find, of the flags alone."""
    workers = WORKERS.value if chosen_mode() == "sweep" else 0
    host.set_up(HOST_SETUP.value, DETERMINISTIC.value, workers)


def chosen_mode() -> str:
    """What to do."""
    return "sweep" if SEEDS.present and not MODE.present else MODE.value


def main(arguments: Sequence[str]) -> None:
    """Picks the mode and calls it."""
    del arguments
    mode = chosen_mode()
    config_flags.refuse_unread(mode, MODES)
    at_hub = mode in ("eval", "predict") and hub.is_address(WORKDIR.value)
    workdir = local_path(WORKDIR.value) if WORKDIR.value and not at_hub else None
    figures = plot_style.kinds(FIGURES.value)
    meeting = address.address_of(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
    distributed = DISTRIBUTED.value or meeting is not None
    if HEARTBEAT_TIMEOUT.present and not distributed:
        raise UserError("--heartbeat_timeout has no effect without --distributed or --coordinator")
    host.import_jax()
    import train  # after the flags, so that a mistyped one is answered at once
    from eanet.cluster.join import joined
    from eanet.inference.predict import predict

    if STOP_AT_EOF.value:
        signals.stop_at_eof()
    if mode in ("eval", "predict", "replay"):
        model: Path | str | None = WORKDIR.value if at_hub else workdir
        if model is None:
            raise UserError(f"--mode={mode} needs --workdir=DIR, the directory of a run")
        if mode == "replay":
            train.replay(Path(model))
        elif mode == "predict":
            predict(
                model,
                IMAGES.value or (),
                checkpoint=CHECKPOINT.value,
                resize=RESIZE.value,
                top=TOP.value,
                out=None if OUT.value is None else local_path(OUT.value),
                strict=STRICT.value,
            )
        else:
            with joined(distributed, meeting, HEARTBEAT_TIMEOUT.value) as members:
                train.evaluate(
                    model,
                    checkpoint=CHECKPOINT.value,
                    split=SPLIT.value,
                    dataset=DATASET.value,
                    data_dir=DATA_DIR.value,
                    figures=figures,
                    members=members,
                )
    elif EXTEND_TO.value is not None and (CONFIG.value is not None or workdir is None):
        raise UserError(
            "--extend_to goes with --workdir=DIR alone; with --config say --config.num_epochs"
        )
    elif CONFIG.value is None and (mode == "sweep" or workdir is None):
        raise UserError("--config=FILE is missing, for example configs/eanet_cifar100.py")
    elif mode == "train":
        with joined(distributed, meeting, HEARTBEAT_TIMEOUT.value) as members:
            train.train(
                CONFIG.value,
                workdir or Path(f"runs/{config_flags.config_file().stem}"),
                extend_to=EXTEND_TO.value,
                figures=figures,
                stopwatch=Stopwatch.of_process(),
                members=members,
            )
    else:
        sweep(workdir, figures)


def sweep(directory: Path | None, figures: Sequence[str]) -> None:
    """Sweeps, or searches, as the flags say."""
    import train
    from eanet.sweeps import command

    if SEEDS.present and (SWEEP.present or SEARCH.present):
        raise UserError(
            "--seeds is a sweep of its own; in another one they are a key of it, as in "
            "--sweep='model.memory_size=4,16;seed=0..2'"
        )
    definition = SWEEP.value
    if SEEDS.present:
        definition = f"seed={CONFIG.value.seed}..{CONFIG.value.seed + SEEDS.value - 1}"
    if not definition:
        raise UserError("--mode=sweep needs --sweep=NAME, or runs as in 'model.memory_size=4,16'")
    if FLAGS["trials"].present and not SEARCH.value:
        raise UserError("--trials counts the runs of a search: add --search=tpe or --search=random")
    host_setup = f"--host_setup={str(HOST_SETUP.value).lower()}"
    program = [sys.executable, __file__, host_setup, "--stop_at_eof"]
    options = command.Options(
        directory=directory,
        storage=STORAGE.value,
        workers=WORKERS.value,
        dry_run=DRY_RUN.value,
        figures=figures,
        command=lambda workdir: [*program, f"--workdir={workdir}"],
    )
    module = config_lib.load_module(config_flags.config_file())
    if SEARCH.value:
        command.run_search(
            definition, CONFIG.value, module, options, method=SEARCH.value, trials=TRIALS.value
        )
    else:
        command.run_grid(definition, CONFIG.value, module, options, train.size)


if __name__ == "__main__":
    # JAX reads its settings when it is imported, by a config file at the earliest.
    config_flags.run(main, before_config=set_up_host)
