import subprocess
import sys
import time

from eanet.stopwatch import Stopwatch

BURN = "import os\nwhile sum(os.times()[:2]) < 0.5: pass"


def test_it_counts_the_cores_of_this_process_and_of_those_that_ended():
    stopwatch = Stopwatch.now()
    subprocess.run([sys.executable, "-c", BURN], check=True)
    before = time.process_time()
    while time.process_time() < before + 0.3:
        pass
    read = stopwatch.read()
    assert 0.75 <= read["cpu_seconds"] < 5
    assert read["run_seconds"] >= 0.3


def test_waiting_takes_time_but_no_core():
    stopwatch = Stopwatch.now()
    time.sleep(0.5)
    read = stopwatch.read()
    assert read["run_seconds"] >= 0.5 > read["cpu_seconds"]


def test_that_of_the_process_has_begun_with_it():
    of_process, now = Stopwatch.of_process(), Stopwatch.now()
    assert of_process.begun < now.begun
    assert of_process.read()["cpu_seconds"] > now.read()["cpu_seconds"]
