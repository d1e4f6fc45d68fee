"""Trains by several processes on this machine, each with its GPU or its share of the cores.

python -m eanet launch --processes=2 -- python main.py --config=configs/eanet_cifar100.py

The command is given where the processes meet, and which of them each one is. Signals are passed on
to all. The exit code is that of the process that failed first; the others then end as well, by
themselves where they see it within --heartbeat_timeout of the command.
"""

import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import IO

from eanet import host
from eanet.cli import Parser
from eanet.cluster.address import HEARTBEAT_TIMEOUT
from eanet.errors import PEER_ENDED, UserError
from eanet.signals import SAVE, STOP

# Seconds that the others have to end by themselves, when they can have seen that one has failed.
_GRACE = 15.0


def start(
    command: Sequence[str], count: int, output: IO[bytes] | None = None
) -> list[subprocess.Popen[bytes]]:
    """Starts the processes of one training; each ends in order when this one is gone.

    Args:
      command: what trains, without where the processes meet.
      count: how many processes.
      output: where what they say goes; None for where this process's goes.

    Raises:
      UserError: the command cannot be started; none of them is left.
    """
    shares = [host.share(index, count) for index in range(count)]
    meeting = f"--coordinator=127.0.0.1:{free_port()}", f"--num_processes={count}"
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for index, share in enumerate(shares):
            asked = [*command, *meeting, f"--process_id={index}"]
            processes.append(_start(asked, share, output))
    except OSError as error:
        for process in processes:
            process.kill()
            process.wait()
        reason = error.strerror or error
        raise UserError(f"{command[0]} cannot be started: {reason}") from None
    return processes


def outcome(
    processes: Sequence[subprocess.Popen[bytes]],
    say: Callable[[str], object] = lambda _: None,
    heartbeat_timeout: float = 0.0,
) -> int:
    """Waits for all; the exit code of the first that failed by itself, or else of any.

    It will `say` which ones the system ended. When one has failed, the others are killed where they
    do not end by themselves soon after the timeout; that is said too, and is no failure of theirs.
    """
    failed: dict[int, int] = {}
    killed: set[int] = set()
    deadline = float("inf")
    while True:
        codes = [process.poll() for process in processes]
        for index, code in enumerate(codes):
            if code and index not in failed and index not in killed:
                failed[index] = code
                deadline = min(deadline, time.monotonic() + heartbeat_timeout + _GRACE)
                if code < 0:
                    say(f"process {index} was ended by {signal.Signals(-code).name}")
        if None not in codes:
            break
        if time.monotonic() > deadline:
            for index in set(range(len(processes))) - killed:
                if codes[index] is None:
                    say(f"process {index} does not end and is killed")
                    processes[index].kill()
                    killed.add(index)
        time.sleep(0.05)
    by_itself = [code for code in failed.values() if code != PEER_ENDED]
    code = next(iter([*by_itself, *failed.values()]), 0)
    return code if code >= 0 else 128 - code


def main(arguments: list[str], prog: str) -> int:
    """The command `launch`."""
    at = arguments.index("--") if "--" in arguments else len(arguments)
    own, command = arguments[:at], arguments[at + 1 :]
    parser = Parser(prog, __doc__)
    parser.add_argument("--processes", type=int, required=True, metavar="N", help="how many")
    options = parser.parse_args(own)
    if options.processes < 1:
        parser.error(f"--processes={options.processes} must be at least 1")
    if not command:
        parser.error("the command is missing: -- python main.py --config=FILE ...")
    if 0 < (gpus := host.gpus()) < options.processes:
        raise UserError(f"--processes={options.processes} on {gpus} GPUs: each needs its own")
    asked = [re.fullmatch(r"--?heartbeat_timeout=([0-9.]+)", each) for each in command]
    timeout = next((float(each[1]) for each in asked if each), HEARTBEAT_TIMEOUT)
    processes = start(command, options.processes)

    def pass_on(number: int, _: object) -> None:
        for process in processes:
            process.send_signal(number)

    for number in (*STOP, *SAVE):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, pass_on)
    return outcome(processes, lambda line: print(line, file=sys.stderr, flush=True), timeout)


def _start(
    command: Sequence[str], share: host.Share, output: IO[bytes] | None
) -> subprocess.Popen[bytes]:
    with share.on_cores():
        return subprocess.Popen(
            [*command, "--stop_at_eof"],
            stdin=subprocess.PIPE,  # which ends with this process
            stdout=output,
            stderr=output,
            env=share.environment,
            start_new_session=True,  # Ctrl-C is this process's to pass on, once
        )


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
