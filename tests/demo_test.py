"""What of the demo page needs no browser; `make test-demo` has the rest."""

import pathlib
import unittest

from examples.web import demo
from tf_proxquant.litert import __main__ as command
from tf_proxquant.litert import flagging


class ExportTest(unittest.TestCase):
    def test_its_flags_are_those_of_the_command(self):
        values = command.define_flags()
        values(["", "a.keras", "a.tflite", *demo.export_options(pathlib.Path("run"), [0, 16])])
        options = flagging.options(values, {"txt": str})
        self.assertEqual(options["value_range"], (0.0, 16.0))
        self.assertEqual(options["labels"], str(pathlib.Path("run", "labels.txt")))


if __name__ == "__main__":
    unittest.main()
