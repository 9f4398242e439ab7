"""docs/own-pictures.md: every block of it is run, on a few small pictures and for a few epochs."""

import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

import numpy as np
from PIL import Image

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / "docs" / "own-pictures.md"
# Of training in full nothing would be learned here, nor of a network of twice as many layers.
BRIEF = {
    "--image_size=96": "--image_size=32",
    "--model=MobileNetV2": "--model=MobileNet --full_precision_epochs=0",
    "--model=networks:small": "--model=networks:small --full_precision_epochs=0",
    "--workdir=runs/first": "--workdir=runs/first --full_precision_epochs=1",
}


def blocks():
    """(language, text) of each fenced block, in order."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)


def write_pets(folder):
    random = np.random.default_rng(0)
    for name, level in (("cat", 80), ("dog", 130), ("red panda", 180)):
        (folder / "pets" / name).mkdir(parents=True)
        for number in range(15):
            pixels = random.normal(level, 40, (20, 20, 3)).clip(0, 255).astype("uint8")
            Image.fromarray(pixels).save(folder / "pets" / name / f"{number}.jpg")


class OwnPicturesTest(unittest.TestCase):
    def run_block(self, language, text, folder):
        if language == "python" and text.startswith("# "):
            path = folder / text.splitlines()[0].removeprefix("# ")
            path.write_text(text)
            return ""
        if language == "python":
            command = [sys.executable, "-c", text]
        else:
            if "train.py" in text and "--resume" not in text:
                for long, short in BRIEF.items():
                    text = text.replace(long, short)
                text = text.replace("train.py", "train.py --epochs=1")
            command = ["bash", "-ec", text]
        path = f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
        result = subprocess.run(
            command, cwd=folder, capture_output=True, text=True,
            env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
        )  # fmt: skip
        self.assertEqual(result.returncode, 0, f"{text}\n{result.stderr[-3000:]}")
        return result.stdout

    def test_every_block_runs_and_the_files_that_the_page_names_are_there(self):
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            write_pets(folder)
            for name in ("train.py", "examples"):
                (folder / name).symlink_to(ROOT / name)
            outputs = [self.run_block(*block, folder) for block in blocks()]
            self.assertEqual(len(outputs), 8)
            self.assertIn("red panda", outputs[2])
            run = folder / "runs" / "first"
            listed = PAGE.read_text().split("## What the file sees")[0].split("then holds")[1]
            for name in re.findall(r"`([\w.]+\.\w+)`", listed):
                self.assertTrue((run / name).exists(), name)
            self.assertIn("3 labels: cat, dog, red panda", outputs[6])
            self.assertTrue((folder / "pets.tflite").exists())
