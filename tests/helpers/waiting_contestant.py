"""A contestant for `tests/test_benchmarks.py`: a unit of work is a hundredth of a second."""

import sys
import time

from benchmarks.contestant import Prepared, serve


def prepare(task):
    print("libraries print what they like")
    if task.get("fails"):
        sys.exit("no such backend")
    return Prepared(lambda count: time.sleep(0.01 * count), 3, 7, {"colour": "blue"})


if __name__ == "__main__":
    serve(prepare)
