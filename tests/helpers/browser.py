"""A headless Chromium, driven over pipes by its own protocol: no driver need be installed."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest


class Browser:
    """One page; `requested` has the address of all that it has asked for."""

    def __init__(self, profile: Path):
        program = shutil.which("chromium") or shutil.which("google-chrome")
        if program is None:
            pytest.skip("needs Chromium")
        theirs, self._out = os.pipe()
        self._in, answers = os.pipe()
        # It reads from descriptor 3 and writes to 4.
        script = f'exec "$@" 3<&{theirs} 4>&{answers}'
        self._process = subprocess.Popen(
            ["bash", "-c", script, "bash", program, "--headless=new", "--no-sandbox",
             "--disable-gpu", f"--user-data-dir={profile}", "--remote-debugging-pipe"],
            pass_fds=(theirs, answers), stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs)
        os.close(answers)
        self.requested: list[str] = []
        self._number, self._begun, self._session = 0, b"", None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        self.call("Network.enable")
        self.call("Runtime.enable")

    def call(self, method, **params):
        """What a method of the protocol answers."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            if answer.get("method") == "Network.requestWillBeSent":
                self.requested.append(answer["params"]["request"]["url"])
        assert "error" not in answer, answer
        return answer["result"]

    def run(self, script):
        """The value of a script of the page, waited for where it is a promise."""
        found = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, condition):
        """Waits until a script is true of the page."""
        ask = f"if ({condition}) done(true); else if (!left--) done(false)"
        script = f"new Promise(done => {{ let left = 600; setInterval(() => {{ {ask} }}, 100) }})"
        assert self.run(script), condition

    def give(self, selector, path):
        """Gives a file to an input of the page."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def resize(self, width, height):
        """Makes the page as wide as a screen."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
            mobile=width < 600,
        )  # fmt: skip

    def close(self):
        """Ends it."""
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def _next(self):
        while b"\0" not in self._begun:
            block = os.read(self._in, 2**16)
            assert block, "the browser has ended"
            self._begun += block
        message, _, self._begun = self._begun.partition(b"\0")
        return json.loads(message)
