"""A port of this process that leads to process 0 and stays open when that has gone.

When a process loses its connection to process 0, JAX aborts it at once with pages of a stack trace.
It is given this port in place of that one, so that the end of process 0 can be told in one line.
"""

import selectors
import socket
import threading

_CHUNK = 2**16


class Relay:
    """Passes on what is sent to `address`, and what comes back; `lost` is set when that ends."""

    def __init__(self, target: str):
        host, _, port = target.rpartition(":")
        self._target = host.strip("[]"), int(port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.lost = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        reached = False
        while True:
            near, _ = self._listener.accept()
            try:
                far = socket.create_connection(self._target)
            except OSError:
                near.close()  # JAX tries again: the target may not be there yet
                if reached:
                    self.lost.set()
                continue
            reached = True
            threading.Thread(target=self._pass_on, args=(near, far), daemon=True).start()

    def _pass_on(self, near: socket.socket, far: socket.socket) -> None:
        with selectors.DefaultSelector() as waiting:
            waiting.register(near, selectors.EVENT_READ, far)
            waiting.register(far, selectors.EVENT_READ, near)
            while True:
                for key, _ in waiting.select():
                    source, target = (near, far) if key.fileobj is near else (far, near)
                    try:
                        data = source.recv(_CHUNK)
                        target.sendall(data)
                    except OSError:
                        data = b""
                    if data:
                        continue
                    if source is near:
                        near.close()
                        far.close()
                    else:
                        self.lost.set()
                        self._kept = near  # open, or JAX would notice
                    return
