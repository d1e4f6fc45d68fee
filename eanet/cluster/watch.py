"""Sees that another process of the training has ended or hangs, and ends this one with a line.

Every process gives a sign of life once a second. Process 0 watches the others and they watch it, so
that the effort grows with their number and not with its square.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

from eanet.cluster.store import Store
from eanet.errors import PEER_ENDED, as_line

_BEAT = 1.0  # seconds
_GONE = "gone"
# Seconds that process 0 stays, for the others to read what it has found.
_LINGER = 3.0


class Watch:
    """The threads that give a sign of life and look for those of others.

    Args:
      store: which all processes read.
      index: of this process.
      names: of all, as people know them.
      timeout: seconds without a sign after which a process counts as gone.
    """

    def __init__(self, store: Store, index: int, names: Sequence[str], timeout: float):
        self._store, self._index, self._names, self._timeout = store, index, names, timeout
        self._done = threading.Event()
        self._reported = False
        tasks = (self._beat, self._look)
        self._threads = [threading.Thread(target=task, daemon=True) for task in tasks]
        for thread in self._threads:
            thread.start()

    def report(self, how: str, code: int = PEER_ENDED) -> None:
        """Tells the others that this process ends, and how; they end too, with this exit code."""
        self._reported = True
        line = f"{self._names[self._index]} ended: {how}"
        with suppress(Exception):  # who holds the store may be gone
            found = {"of": self._index, "line": line, "code": code}
            self._store.put_first(_GONE, json.dumps(found))
        if self._index == 0:
            time.sleep(_LINGER)

    def await_verdict(self) -> None:
        """Waits for what may be found: this process cannot go on, perhaps since another is gone."""
        self._done.wait(self._timeout + 10 * _BEAT)

    def close(self) -> None:
        """Ends the watch; Python aborts where it ends within a call to the store."""
        self._done.set()
        for thread in self._threads:
            thread.join(10 * _BEAT)

    def _beat(self) -> None:
        count = 0
        while not self._done.wait(_BEAT):
            count += 1
            with suppress(Exception):  # what that means, `_look` sees
                self._store.put(f"beat/{self._index}", str(count))

    def _look(self) -> None:
        watched = range(1, len(self._names)) if self._index == 0 else [0]
        last: dict[int, str | None] = {}
        # Looks, and not seconds: of the time in which this process itself was stopped none counts.
        silent = dict.fromkeys(watched, 0.0)
        before = time.monotonic()
        while not self._done.is_set():
            with suppress(Exception):
                self._heed(self._store.get(_GONE, _BEAT))
            if (relay := self._store.relay) and relay.lost.is_set():
                self._end(0, f"{self._names[0]} has ended")
            now = time.monotonic()
            seconds, before = min(now - before, 2 * _BEAT), now
            for other in watched:
                beat = None
                with suppress(Exception):  # a machine that is busy may take long to answer
                    beat = self._store.get(f"beat/{other}", _BEAT)
                alive = beat is not None and beat != last.get(other)
                last[other] = beat or last.get(other)
                silent[other] = 0.0 if alive else silent[other] + seconds
                if silent[other] > self._timeout:
                    self._end(
                        other,
                        f"{self._names[other]} has ended or hangs: "
                        f"no sign of life for {self._timeout:g} s",
                    )

    def _heed(self, verdict: str | None) -> None:
        if verdict and not self._reported:
            found = json.loads(verdict)
            self._end(int(found["of"]), str(found["line"]), int(found["code"]))

    def _end(self, of: int, line: str, code: int = PEER_ENDED) -> None:
        """Ends this process at once: what it computes waits for one that is gone."""
        if self._done.is_set():
            return
        if self._index == 0:
            with suppress(Exception):
                self._store.put_first(_GONE, json.dumps({"of": of, "line": line, "code": code}))
        with suppress(Exception):
            sys.stdout.flush()
        goes_on = ", and the same command goes on" if code == PEER_ENDED else ""
        text = as_line(f"error: {line}; this process ends too{goes_on}") + "\n"
        with suppress(OSError):
            os.write(2, text.encode())
        if self._index == 0:
            time.sleep(_LINGER)
        os._exit(code)
