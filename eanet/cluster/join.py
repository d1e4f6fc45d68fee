"""From a process alone to one among others, and from there to an end that all of them know of."""

import atexit
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from eanet import signals
from eanet.cluster.address import Address
from eanet.cluster.members import ALONE, Joined, Members, Refused
from eanet.cluster.store import Store, detected
from eanet.cluster.watch import Watch
from eanet.errors import Interrupted, TrainingDiverged, UserError, exit_code


@contextmanager
def joined(
    distributed: bool, address: Address | None, heartbeat_timeout: float
) -> Iterator[Members]:
    """While the context lasts, this process is one of several, where it is `distributed`.

    They meet at the address, or where the cluster that they are in says. Where another one ends, or
    gives no sign of life for `heartbeat_timeout` seconds, this one ends with a line and the exit
    code `eanet.errors.PEER_ENDED`, or that of a `UserError` which the other one has met.
    `Interrupted`, `TrainingDiverged` and `Refused` must be raised by all.

    Raises:
      UserError: the processes cannot meet at such an address.
    """
    if not distributed:
        yield ALONE
        return
    address = address or detected()
    if address.process_id:  # one speaks for all
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    store = Store(address)
    names = [f"process {i}" for i in range(address.num_processes)]
    members = Joined(store, address.process_id, names)
    watch = Watch(store, members.index, names, heartbeat_timeout)
    hosts = members.exchange(socket.gethostname())
    names[:] = [f"{name} on {host}" for name, host in zip(names, hosts, strict=True)]
    try:
        with signals.end_at_stop(lambda number: watch.report(signal.Signals(number).name)):
            yield members
    except (Interrupted, TrainingDiverged, Refused) as error:
        _leave(members, watch, store)
        if not members.leads:  # said once is enough
            sys.exit(exit_code(error))
        raise
    except UserError as error:
        watch.report(f"error: {error}", exit_code(error))
        _exit_without_the_others(exit_code(error))
        raise
    except Exception as error:
        watch.await_verdict()
        watch.report(f"{type(error).__name__}: {error}")
        _exit_without_the_others(1)
        raise
    _leave(members, watch, store)


def _leave(members: Members, watch: Watch, store: Store) -> None:
    members.exchange("all is done")  # process 0, where they meet, leaves no earlier
    watch.close()
    store.leave()


def _exit_without_the_others(code: int) -> None:
    """At the end of the program: JAX would wait for the others, which end in another way."""
    atexit.register(os._exit, code)
