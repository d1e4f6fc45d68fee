"""The main job in this process: trained, stopped by a signal, resumed, evaluated."""

import os
import signal
from unittest import mock

import pytest

import train
from eanet.display.progress import Progress
from eanet.errors import Interrupted
from eanet.tools.verify_resume import digests


def stopped_and_resumed(config, directory):
    """Trains in two workdirs, in one of them with a stop; gives the results on the test split.

    Both must end with the same bytes, and evaluating again with the same figures.
    """
    whole, stopped = directory / "whole", directory / "stopped"
    results = train.train(config, whole)
    epoch_done = Progress.epoch_done

    def stop(*arguments, **options):
        epoch_done(*arguments, **options)
        os.kill(os.getpid(), signal.SIGTERM)

    with mock.patch.object(Progress, "epoch_done", stop), pytest.raises(Interrupted):
        train.train(config, stopped)
    train.train(None, stopped)  # with the config that it was begun with
    assert digests(stopped) == digests(whole)
    again = train.evaluate(stopped)
    assert again["accuracy"] == results["accuracy"] and again["loss"] == results["loss"]
    return results
