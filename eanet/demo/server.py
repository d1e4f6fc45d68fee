"""The page is served, to this machine alone unless another address is asked for."""

import importlib.util
import os
import socket
import tempfile
from collections.abc import Callable
from typing import Any

from eanet import signals
from eanet.atlas.photos import Viewer
from eanet.demo import page
from eanet.errors import Interrupted, UserError

_LARGEST = "50mb"  # of a file that is sent
_FONT = ["system-ui", "sans-serif"]  # none that is fetched from elsewhere


def check_installed() -> None:
    """Raises `UserError` where Gradio is not installed."""
    if importlib.util.find_spec("gradio") is None:
        raise UserError("the demo needs Gradio: pip install -r requirements-demo.txt")


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens there; raises `UserError` where it cannot."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise UserError(
            f"cannot listen on port {port} of {host}: {reason}; choose another --port or --host"
        ) from None


def serve(
    listener: socket.socket, viewer: Viewer, name: str, about: str, say: Callable[[str], None]
) -> None:
    """Answers until SIGINT or SIGTERM comes; what was sent is then removed.

    Raises `Interrupted` in the end.
    """
    with (
        tempfile.TemporaryDirectory(prefix="eanet-demo-") as uploads,
        signals.stop_request() as stop,
    ):
        os.environ["GRADIO_TEMP_DIR"] = uploads
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        server = _server(viewer, name, about)
        host, port = listener.getsockname()[:2]
        say(f"http://{f'[{host}]' if ':' in host else host}:{port} (Ctrl-C ends it)")
        if not stop:
            server.run(sockets=[listener])
    raise Interrupted(stop.signal or 0, "interrupted")


def _server(viewer: Viewer, name: str, about: str) -> Any:
    import fastapi
    import gradio
    import uvicorn

    theme = gradio.themes.Default(font=_FONT, font_mono=["monospace"])
    # Not `launch`, which also asks other machines whether there is a newer version.
    app = gradio.mount_gradio_app(
        fastapi.FastAPI(),
        page.build(gradio, viewer, name, about),
        path="/",
        theme=theme,
        css=page.STYLE,
        footer_links=[],
        max_file_size=_LARGEST,
        ssr_mode=False,
    )
    # A browser keeps its connection open for as long as it shows the page.
    return uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
