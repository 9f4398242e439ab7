"""A headless Chromium, driven over its DevTools protocol by a pair of pipes."""

import base64
import contextlib
import json
import os
import pathlib
import select
import shutil
import subprocess
import tempfile
import time

SETUP = pathlib.Path(__file__).parent / "setup.sh"
NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
# The sandbox of Chromium needs rights that containers do not give; the pages are our own.
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--remote-debugging-pipe", "--no-first-run", "--hide-scrollbars", "--mute-audio"),
)
# Modifier-free keys: DevTools wants the code beside the key.
CODES = {" ": "Space"}


class NoBrowserError(Exception):
    """There is none, and none can be set up; the message says why."""


def find(folder):
    """Returns (command, environment) of a Chromium; sets one up in `folder` where there is none."""
    for name in NAMES:
        if shutil.which(name):
            return [shutil.which(name)], dict(os.environ)
    setup = subprocess.run(["bash", SETUP, folder], capture_output=True, text=True, check=False)
    if setup.returncode:
        raise NoBrowserError((setup.stderr.strip().splitlines() or ["setup.sh failed"])[-1])
    libraries = folder / "root/usr/lib" / f"{os.uname().machine}-linux-gnu"
    paths = os.pathsep.join([str(libraries), str(libraries / "pulseaudio")])
    command = [str(folder / "root/usr/lib/chromium/chromium-headless-shell")]
    return command, {**os.environ, "LD_LIBRARY_PATH": paths}


class Browser:
    """One page of a Chromium of its own.

    Attributes:
      requests: addresses that the page asked for.
      errors: what it wrote to its console as an error, and exceptions that nothing caught.
    """

    def __init__(self, command, environment):
        self.requests, self.errors = [], []
        self._profile = tempfile.TemporaryDirectory()
        from_us, to_it = os.pipe()
        from_it, to_us = os.pipe()
        pipes = f'exec "$@" 3<&{from_us} 4>&{to_us}'
        options = [*OPTIONS, f"--user-data-dir={self._profile.name}"]
        self._process = subprocess.Popen(
            ["bash", "-c", pipes, "bash", *command, *options],
            env=environment,
            pass_fds=(from_us, to_us),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        os.close(from_us)
        os.close(to_us)
        self._to, self._from = to_it, from_it
        self._buffer, self._number, self._session = b"", 0, None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def close(self):
        self._process.kill()
        self._process.communicate()
        os.close(self._to)
        os.close(self._from)
        with contextlib.suppress(OSError):
            self._profile.cleanup()

    def send(self, method, **parameters):
        """Sends a command of the protocol and returns its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        try:
            os.write(self._to, json.dumps(message).encode() + b"\0")
        except BrokenPipeError:
            raise NoBrowserError(self._last_words()) from None
        while (answer := self._receive()).get("id") != self._number:
            self._note(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def _receive(self, timeout=60):
        while b"\0" not in self._buffer:
            if not select.select([self._from], [], [], timeout)[0]:
                raise TimeoutError("Chromium does not answer")
            part = os.read(self._from, 1 << 20)
            if not part:
                raise NoBrowserError(self._last_words())
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def _last_words(self):
        lines = self._process.communicate()[1].decode(errors="replace").strip().splitlines()
        return f"Chromium ended: {(lines or ['without a word'])[-1]}"

    def _note(self, event):
        method, said = event.get("method"), event.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(said["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            details = said["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Runtime.consoleAPICalled" and said["type"] == "error":
            self.errors.append(" ".join(str(a.get("value")) for a in said["args"]))
        elif method == "Log.entryAdded" and said["entry"]["level"] == "error":
            self.errors.append(said["entry"]["text"])

    def open(self, address):
        self.send("Page.navigate", url=address)
        self.wait_for("document.readyState === 'complete'")

    def evaluate(self, expression):
        """Returns the value of a JavaScript expression; promises are awaited."""
        answer = self.send(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise RuntimeError(details.get("exception", {}).get("description", details["text"]))
        return answer["result"].get("value")

    def wait_for(self, condition, seconds=60):
        end = time.monotonic() + seconds
        while not self.evaluate(condition):
            if time.monotonic() > end:
                raise TimeoutError(f"after {seconds} s not: {condition}")
            time.sleep(0.05)

    def resize(self, width, height, density=1, mobile=False):
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=density, mobile=mobile,
        )  # fmt: skip

    def prefer(self, **features):
        """Sets CSS media features, such as prefers_color_scheme="dark"."""
        listed = [{"name": k.replace("_", "-"), "value": v} for k, v in features.items()]
        self.send("Emulation.setEmulatedMedia", features=listed)

    def mouse(self, kind, x, y):
        pressed = 0 if kind == "mouseReleased" else 1
        self.send(
            "Input.dispatchMouseEvent",
            type=kind, x=x, y=y, button="left", buttons=pressed, clickCount=1,
        )  # fmt: skip

    def touch(self, kind, *points):
        listed = [{"x": x, "y": y} for x, y in points]
        self.send("Input.dispatchTouchEvent", type=kind, touchPoints=listed)

    def hold(self, key):
        text = {"text": key} if len(key) == 1 else {}
        code = CODES.get(key, key)
        self.send("Input.dispatchKeyEvent", type="keyDown", key=key, code=code, **text)

    def let_go(self, key):
        self.send("Input.dispatchKeyEvent", type="keyUp", key=key, code=CODES.get(key, key))

    def press(self, key, times=1):
        for _ in range(times):
            self.hold(key)
            self.let_go(key)

    def screenshot(self, path, **clip):
        taken = self.send("Page.captureScreenshot", captureBeyondViewport=True, **clip)
        pathlib.Path(path).write_bytes(base64.b64decode(taken["data"]))
