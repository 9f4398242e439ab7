"""Exported files on AArch64, under emulation, against the same files here.

    python -m tests.arm.run [--folder=.arm]

Two networks in every profile, on XNNPACK and on the builtin kernels. The first run sets the
folder up (90 MB of packages). Prints a table; the exit status is 1 if an output is too far, 0 with
a line that says why where the emulator cannot be set up.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers

import tf_proxquant as pq
from tf_proxquant.litert import plan

HERE = pathlib.Path(__file__).parent
COUNT = 3
# Largest output difference relative to the largest output, where sums differ and where roundings
# of activations to 8 bits do.
LIMITS = {"dynamic": 5e-2, "static": 5e-2}
FLOAT_LIMIT = 2e-5


def pictures():
    model = pq.models.resnet(8, (32, 32, 3), 10)
    pq.snap(model, pq.Binary("mean", axis=-1))
    return model, {"image": np.random.default_rng(0).uniform(size=(COUNT, 32, 32, 3))}


def words():
    numbers = keras.Input((12,), dtype="int32", name="words")
    x = layers.Embedding(2000, 32)(numbers)
    x = layers.Dense(64, activation="relu")(layers.GlobalAveragePooling1D()(x))
    model = keras.Model(numbers, layers.Dense(5)(x))
    pq.snap(model, pq.Uniform(2, axis=-1, mid_rise=True))
    return model, {"words": np.random.default_rng(0).integers(0, 2000, (COUNT, 12))}


NETWORKS = {"pictures": pictures, "words": words}


def export(folder):
    """Writes every file and its inputs; returns {path: profile}."""
    files = {}
    for name, build in NETWORKS.items():
        keras.utils.set_random_seed(0)
        model, inputs = build()
        (values,) = inputs.values()
        values = values.astype(model.inputs[0].dtype)
        for profile in sorted(plan.PROFILES):
            path = folder / f"{name}-{profile}.tflite"
            options = {"representative_data": values} if profile == "static" else {}
            pq.export(model, path, profile, batch_size=1, **options)
            edge = pq.inspect(path).inputs[0].name
            np.savez(path.with_suffix(".inputs.npz"), **{edge: values})
            files[path] = profile
    return files


def difference(a, b):
    return np.abs(a - b).max() / np.abs(b).max()


def compare(files):
    """Prints the table; returns whether every output is near enough."""
    is_right = True
    print("| file | XNNPACK | builtin |\n|---|---|---|")
    for path, profile in files.items():
        here, arm = (np.load(path.with_suffix(f".{machine}.npz")) for machine in ("here", "arm"))
        is_right &= str(arm["architecture"]) == "aarch64"
        errors = [difference(arm[name], here[name]) for name in ("xnnpack", "builtin")]
        is_right &= max(errors) <= LIMITS.get(profile, FLOAT_LIMIT)
        print(f"| {path.stem} | " + " | ".join(f"{error:.0e}" for error in errors) + " |")
    return is_right


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", default=".arm", help="of the emulator and its packages")
    arm = pathlib.Path(parser.parse_args().folder).resolve()
    setup = subprocess.run(
        ["bash", HERE / "setup.sh", arm, sys.executable],
        capture_output=True,
        text=True,
        check=False,
    )
    if setup.returncode:
        print(f"AArch64 was not tried: {setup.stderr.strip().splitlines()[-1:]}")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        files = export(pathlib.Path(folder))
        worker = [HERE / "worker.py", folder]
        subprocess.run([sys.executable, *worker, "here"], check=True)
        emulated = [arm / "emulator/usr/bin/qemu-aarch64", "-L", arm / "root"]
        emulated += ["-E", f"PYTHONPATH={arm / 'site'}", arm / "root/usr/bin/python3.11"]
        subprocess.run([*emulated, *worker, "arm"], check=True)
        return 0 if compare(files) else 1


if __name__ == "__main__":
    sys.exit(main())
