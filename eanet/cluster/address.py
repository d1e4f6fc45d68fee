"""Where the processes of a training meet, as flags say it."""

import re
from typing import NamedTuple

from eanet.errors import UserError

HEARTBEAT_TIMEOUT = 30.0  # seconds


class Address(NamedTuple):
    """Where processes meet, and which of them this one is."""

    coordinator: str  # HOST:PORT, of process 0
    num_processes: int
    process_id: int
    local_devices: list[int] | None = None  # of this host, that are this process's; None for all


def address_of(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> Address | None:
    """The address that the flags give; None without any of them.

    Raises:
      UserError: they are incomplete or impossible.
    """
    given = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if len(missing) == len(given):
        return None
    if coordinator is None or num_processes is None or process_id is None:
        raise UserError(
            f"{' and '.join(missing)} missing: --coordinator=HOST:PORT, --num_processes=N and "
            "--process_id=I go together"
        )
    if not re.fullmatch(r"\S+:\d{1,5}", coordinator):
        raise UserError(f"--coordinator={coordinator} must be HOST:PORT of process 0")
    if process_id >= num_processes:
        raise UserError(
            f"--process_id={process_id} must be less than --num_processes={num_processes}: "
            "processes are counted from 0"
        )
    return Address(coordinator, num_processes, process_id)
