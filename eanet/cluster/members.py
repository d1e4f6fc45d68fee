"""What the processes of one training say to each other: each calls the same at the same points.

Process 0 leads: it alone writes files and speaks to the user.
"""

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from eanet import devices
from eanet.cluster.store import Store
from eanet.errors import UserError
from eanet.signals import Request

_SHOWN = 4  # differences
# Seconds after which another host sees what this one has written, on a slow network file system.
_VISIBLE = 60.0


class Refused(UserError):
    """As `UserError`, and raised by all processes alike."""


@dataclasses.dataclass(frozen=True)
class Wishes:
    """What a process would do next, or all of them together."""

    stop: int | None  # the signal that asks for it
    save: int | None  # likewise
    due: bool  # whether it is time to save
    steps: int  # of the next dispatch


class Members:
    """The processes of a training as one of them sees them; here it is the only one."""

    index = 0
    names: Sequence[str] = ("process 0",)

    @property
    def leads(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.index == 0

    def exchange(self, text: str) -> list[str]:
        """The texts of all processes, in their order; waits for all."""
        return [text]

    def least(self, number: int) -> int:
        """The least number of all processes; waits for all."""
        return min(map(int, self.exchange(str(number))))

    def connect(self, mesh: jax.sharding.Mesh) -> None:
        """Makes the devices ready to compute together; before anything else is done with them."""

    def broadcast(self, tree: Any, mesh: jax.sharding.Mesh) -> Any:
        """The arrays of process 0, to the last bit; the others give some of the same form."""
        return tree

    def agree(self, wishes: Wishes) -> Wishes:
        """What all do: what any was asked for by a signal, and else as process 0 would."""
        wanted = [
            Wishes(**json.loads(each))
            for each in self.exchange(json.dumps(dataclasses.asdict(wishes)))
        ]
        return Wishes(
            stop=next((each.stop for each in wanted if each.stop is not None), None),
            save=next((each.save for each in wanted if each.save is not None), None),
            due=wanted[0].due,
            steps=wanted[0].steps,
        )

    def refuse_differences(self, what: Mapping[str, str]) -> None:
        """Raises `Refused` where a process has other values than process 0, naming both."""
        first, *others = (json.loads(each) for each in self.exchange(json.dumps(dict(what))))
        for name, other in zip(self.names[1:], others, strict=True):
            differences = [
                f"{key} is {other.get(key, 'missing')} there and {first.get(key, 'missing')} here"
                for key in {**first, **other}
                if first.get(key) != other.get(key)
            ]
            if differences:
                more = len(differences) - _SHOWN
                rest = f" and {more} more" if more > 0 else ""
                raise Refused(
                    f"{name} is not like {self.names[0]}: {'; '.join(differences[:_SHOWN])}{rest}; "
                    "all processes need the same code, config, data and versions"
                )

    def refuse_another_place(self, path: Path) -> None:
        """Raises `Refused` where a process does not see at `path` the file of process 0."""
        wanted, start = self.exchange(_digest(path))[0], time.monotonic()
        while (seen := _digest(path)) != wanted and time.monotonic() - start < _VISIBLE:
            time.sleep(0.5)
        for name, digest in zip(self.names, self.exchange(seen), strict=True):
            if digest != wanted:
                raise Refused(
                    f"{name} does not see the same directory {path.parent} as {self.names[0]}: "
                    "--workdir must be on a file system that all hosts share"
                )

    def shared(self, own: Request) -> Request:
        """A request that has come as soon as it has to any process; to ask it is an exchange."""
        return own


ALONE = Members()


class Joined(Members):
    """One of several processes that have met."""

    def __init__(self, store: Store, index: int, names: Sequence[str]):
        self.index, self.names, self._store, self._round = index, names, store, 0

    def exchange(self, text: str) -> list[str]:
        """See `Members`. Process 0 collects, so that each other one waits for one text only."""
        self._round += 1
        here = f"round/{self._round}"
        if not self.leads:
            self._store.put(f"{here}/{self.index}", text)
            return list(json.loads(self._await(f"{here}/all")))
        texts = [text, *(self._await(f"{here}/{i}") for i in range(1, len(self.names)))]
        self._store.forget(f"round/{self._round - 1}")  # which all have read, or were not here
        self._store.put(f"{here}/all", json.dumps(texts))
        return texts

    def connect(self, mesh: jax.sharding.Mesh) -> None:
        """See `Members`."""
        devices.connect(mesh, lambda: self.exchange(""))

    def broadcast(self, tree: Any, mesh: jax.sharding.Mesh) -> Any:
        """See `Members`; as arrays of NumPy."""
        return devices.broadcast(tree, mesh)

    def shared(self, own: Request) -> Request:
        """See `Members`."""
        return _Shared(own, self.exchange)

    def _await(self, name: str) -> str:
        while (text := self._store.get(name, 1.0)) is None:
            pass  # for as long as it takes: `Watch` sees to it that the other lives
        return text


class _Shared(Request):
    def __init__(self, own: Request, exchange: Callable[[str], list[str]]):
        super().__init__()
        self._own, self._exchange = own, exchange

    def __bool__(self) -> bool:
        if self.signal is None:
            signals = [json.loads(each) for each in self._exchange(json.dumps(self._own.signal))]
            self.signal = next((each for each in signals if each is not None), None)
        return self.signal is not None


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""
