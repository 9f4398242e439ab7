"""quiet.py: what libraries print is held back, and their loggers outlive it."""

import pathlib
import subprocess
import sys
import unittest

SOURCE = pathlib.Path(__file__).parents[1] / "tf_proxquant" / "quiet.py"
PROGRAM = f"""
import logging, os, runpy, sys
quiet = runpy.run_path({str(SOURCE)!r})["quiet"]
with quiet():
    os.write(2, b"from C\\n")
    logger = logging.getLogger("library")
    logger.addHandler(logging.StreamHandler())
    print("from Python", file=sys.stderr)
logger.warning("from a logger")
logging.getLogger("tensorflow").warning("retracing")
logging.getLogger("tensorflow").error("wrong")
"""


class QuietTest(unittest.TestCase):
    def test_loggers_made_meanwhile_go_on_writing_but_for_warnings_of_tensorflow(self):
        command = [sys.executable, "-W", "error", "-c", PROGRAM]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        self.assertEqual(done.stderr.splitlines(), ["from Python", "from a logger", "wrong"])


if __name__ == "__main__":
    unittest.main()
