"""Joins JAX's processes, and the texts that all of them can read.

The only place that knows JAX's service, which has no public name; Orbax uses it in the same way.
"""

import os
import threading
import time
from typing import Any

import jax
from jax._src import clusters, distributed

from eanet.cluster.address import Address
from eanet.cluster.relay import Relay
from eanet.errors import PEER_ENDED, UserError, as_line

# Seconds in which all processes must have started.
_START = 300
# Seconds after which all of them end together, when all is done.
_END = 60
# Seconds for which JAX itself waits, for all to start and for signs of life: it would abort, with
# pages of a stack trace. `_give_up` and `Watch` are sooner.
_PATIENCE = 24 * 3600

# How a call ends that may succeed later, if the service is still there.
_LATER = ("DEADLINE_EXCEEDED", "NOT_FOUND", "UNAVAILABLE", "CANCELLED")


def detected() -> Address:
    """The address that SLURM, Open MPI, Kubernetes or a TPU pod tell of; `UserError` without."""
    try:
        found = clusters.ClusterEnv.auto_detect_unset_distributed_params(
            None, None, None, None, None, _START
        )
    except Exception as error:  # whatever a cluster's own library raises
        raise UserError(
            f"--distributed cannot be told where the processes meet: {error}"
        ) from error
    coordinator, num_processes, process_id, local_devices = found
    if coordinator is None or num_processes is None or process_id is None:
        raise UserError(
            "--distributed finds no SLURM, Open MPI, Kubernetes or TPU pod here: give "
            "--coordinator=HOST:PORT --num_processes=N --process_id=I, or on one machine start all "
            "with `python -m eanet launch`"
        )
    return Address(coordinator, num_processes, process_id, list(local_devices or []) or None)


def _give_up(address: Address) -> None:
    line = as_line(
        f"error: process {address.process_id} of {address.num_processes} has waited {_START} s at "
        f"{address.coordinator} for the others; when all are started, the same command goes on"
    )
    os.write(2, f"{line}\n".encode())
    os._exit(PEER_ENDED)


class Store:
    """Texts by name, which process 0 holds."""

    def __init__(self, address: Address):
        """Waits for all processes; ends this one where they do not come.

        Raises:
          UserError: they cannot meet at such an address.
        """
        self.relay = Relay(address.coordinator) if address.process_id else None
        # Its handler of SIGTERM would take the place of ours.
        jax.config.update("jax_enable_preemption_service", False)
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        patience = threading.Timer(_START, _give_up, [address])
        patience.daemon = True
        patience.start()
        try:
            jax.distributed.initialize(
                self.relay.address if self.relay else address.coordinator,
                address.num_processes,
                address.process_id,
                address.local_devices,
                cluster_detection_method="deactivate",
                initialization_timeout=_PATIENCE,
                heartbeat_timeout_seconds=_PATIENCE,
                shutdown_timeout_seconds=_END,
            )
        except (RuntimeError, ValueError) as error:
            raise UserError(
                f"process {address.process_id} of {address.num_processes} does not meet the others "
                f"at {address.coordinator}: {error}"
            ) from error
        finally:
            patience.cancel()
        self._client: Any = distributed.global_state.client

    def put(self, name: str, text: str) -> None:
        """Writes a text, in place of one that was there."""
        self._client.key_value_set(f"eanet/{name}", text, True)

    def put_first(self, name: str, text: str) -> None:
        """Writes a text unless one is there."""
        try:
            self._client.key_value_set(f"eanet/{name}", text)
        except jax.errors.JaxRuntimeError as error:
            if "ALREADY_EXISTS" not in str(error):
                raise

    def get(self, name: str, seconds: float) -> str | None:
        """A text, as soon as it is there; None where it is not after so many seconds."""
        start = time.monotonic()
        try:
            return str(self._client.blocking_key_value_get(f"eanet/{name}", int(1000 * seconds)))
        except jax.errors.JaxRuntimeError as error:
            if not any(status in str(error) for status in _LATER):
                raise
        time.sleep(max(0.0, start + seconds - time.monotonic()))
        return None

    def forget(self, name: str) -> None:
        """Removes all texts whose names begin with this one and a slash."""
        self._client.key_value_delete(f"eanet/{name}/")

    def leave(self) -> None:
        """Ends the service, when all processes do."""
        jax.distributed.shutdown()
