"""The demo page in a browser, for programs that measure on it."""

import contextlib
import pathlib
import sys
import threading

from examples.web import demo
from tests.web import browser

ROOT = pathlib.Path(__file__).parents[2]


@contextlib.contextmanager
def opened(otherwise):
    """Serves the demo and opens it.

    Args:
      otherwise: what to end the program with where there is no browser, followed by why.

    Yields: (`browser.Browser`, address of the page, its folder).
    """
    try:
        command = browser.find(ROOT / ".browser")
    except browser.NoBrowserError as error:
        sys.exit(f"{otherwise}: {error}")
    site = demo.build(ROOT / ".web")
    with demo.listen(site, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = browser.Browser(*command)
        try:
            address = f"http://127.0.0.1:{server.server_port}/"
            page.open(address)
            yield page, address, site
        finally:
            page.close()
            server.shutdown()
