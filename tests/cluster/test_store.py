"""Where processes meet, and what is said where they do not."""

import subprocess
import sys

import pytest

from eanet.errors import PEER_ENDED
from eanet.tools.launch import free_port
from tests.helpers.command_line import ROOT, environment

MEET = """
import sys
from eanet import cli
from eanet.cluster import store
from eanet.cluster.address import Address
store._START = 2
cli.run(lambda: store.Store(Address(sys.argv[1], 2, int(sys.argv[2]))) and None)
"""


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 1])
def test_a_process_whose_others_do_not_come_ends_with_one_line(index):
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-c", MEET, address, str(index)]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == PEER_ENDED
    assert done.stderr == (
        f"error: process {index} of 2 has waited 2 s at {address} for the others; when all are "
        "started, the same command goes on\n"
    )
