"""Stands in for `main.py --workdir=DIR --stop_at_eof` where a sweep is tested: fast, without JAX.

It takes as many steps as the config has hundredths of an epoch, remembers after each where it is,
and appends what it does to $TRACE. What goes wrong is a matter of the seed.
"""

import fcntl
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

FAILS, CRASHES, DAMAGED = 77, 78, 79  # seeds

# Held at the end, so that the results are written and told of, or neither.
ENDING = threading.Lock()


def main(workdir):
    threading.Thread(target=stop_at_eof, daemon=True).start()
    config = json.loads((workdir / "config.json").read_text())
    alone = os.open(f"{os.environ['TRACE']}.{workdir.name}", os.O_CREAT)
    try:
        fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        tell("overlap", workdir)
    if config["seed"] == FAILS:
        print("RuntimeError: RESOURCE_EXHAUSTED: out of memory\n    at a place", flush=True)
        sys.exit(1)
    if config["seed"] == CRASHES:
        tell("crash", workdir)
        os.kill(os.getpid(), signal.SIGKILL)
    metrics = workdir / "metrics.jsonl"
    done = metrics.read_text().count("\n") if metrics.exists() else 0
    total = round(100 * config["num_epochs"])
    if (workdir / "results_test.json").exists():
        return
    tell("begin" if done == 0 else "resume", workdir)
    for step in range(done + 1, total + 1):
        time.sleep(0.01)
        accuracy = config["optimizer"]["learning_rate"] * step / total
        line = {"step": step, "epoch": step / 100, "split": "val", "accuracy": accuracy}
        with open(metrics, "a") as file:
            file.write(json.dumps(line) + "\n")
    results = {"accuracy": 0.5, "step": total, "cores": len(os.sched_getaffinity(0))}
    with ENDING:
        text = "{" if config["seed"] == DAMAGED else json.dumps(results)
        unfinished = workdir / "results.tmp"
        unfinished.write_text(text)
        unfinished.replace(workdir / "results_test.json")
        tell("end", workdir)


def stop_at_eof():
    while os.read(0, 100):
        pass
    with ENDING:
        os._exit(143)


def tell(what, workdir):
    with open(os.environ["TRACE"], "a") as file:
        file.write(f"{what} {workdir.name}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
