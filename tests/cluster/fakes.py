"""Processes of one training as threads, and the texts that they share in this process."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from eanet.cluster.members import Joined


class FakeStore:
    """As `eanet.cluster.store.Store`, for threads of one process."""

    def __init__(self):
        self.texts = {}
        self.relay = None
        self._changed = threading.Condition()

    def put(self, name, text):
        with self._changed:
            self.texts[name] = text
            self._changed.notify_all()

    def put_first(self, name, text):
        with self._changed:
            self.texts.setdefault(name, text)
            self._changed.notify_all()

    def get(self, name, seconds):
        end = time.monotonic() + seconds
        with self._changed:
            self._changed.wait_for(lambda: name in self.texts, end - time.monotonic())
            return self.texts.get(name)

    def forget(self, name):
        with self._changed:
            for each in [key for key in self.texts if key.startswith(f"{name}/")]:
                del self.texts[each]


def together(count, task):
    """What `task(members)` gives, or raises, in each of so many processes."""
    store = FakeStore()
    names = [f"process {index} on node{index}" for index in range(count)]

    def one(index):
        try:
            return task(Joined(store, index, names))
        except Exception as error:
            return error

    with ThreadPoolExecutor(count) as threads:
        results = list(threads.map(one, range(count)))
    return results, store
