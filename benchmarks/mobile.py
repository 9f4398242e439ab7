r"""What a trained network costs on a phone: accuracy, bytes and latency, beside other tools' files.

    python -m benchmarks.full_size --experiment=mobilenet --dataset=cifar10.npz --rows='full|ends'
    python -m benchmarks.mobile --dataset=cifar10.npz [--epochs=6] [--workdir=runs/full_size]
    python -m benchmarks.mobile --toy       # ResNet-8 on digits, an epoch

Takes the networks that `benchmarks.full_size` has finished. From the one in full precision come the
float file, TensorFlow's int8 files and, where the package litert-quantizer is installed, its files
of 8 and 4 bits, all made after training, static ones with 200 training images; from the others the
profiles of this package. Each file is scored by the interpreter on all test images. Latency: one
image, one thread, XNNPACK, the fastest of eight repetitions; all files in turns, medians of the
rounds.
"""

import argparse
import os
import pathlib
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

import tf_proxquant as pq
from benchmarks import full_size, post_training
from tf_proxquant import litert
from tf_proxquant.litert.check import timing

PROFILES = ("fast", "balanced", "small", "dynamic", "static")
FULL_PRECISION = "full precision"


def files(study, names, folder):
    """Yields (name, bytes) of every file."""
    calibration = np.asarray(study.data.x_train[:200], "float32")
    model = trained(study, FULL_PRECISION)
    yield from post_training.others(model, folder, calibration)
    for name in names:
        model, path = trained(study, name), folder / "model.tflite"
        for profile in PROFILES:
            data = {"representative_data": calibration} if profile == "static" else {}
            litert.export(model, path, profile, **data)
            yield f"{name}, `{profile}`", path.read_bytes()


def trained(study, name):
    model = study.network()
    model.load_weights(study.weights_of(name))
    return model


def table(study, names, rounds):
    """Yields the lines of the table."""
    with tempfile.TemporaryDirectory() as folder:
        made = dict(files(study, names, pathlib.Path(folder)))
    times = np.array(
        [[timing.measure_latency(content) for content in made.values()] for _ in range(rounds)]
    )
    ratios = np.median(times / times[:, :1], axis=0)
    size = len(next(iter(made.values())))
    yield "| file | accuracy | bytes | of float | milliseconds | to float |"
    yield "|---|---|---|---|---|---|"
    images = np.asarray(study.data.x_test, "float32")
    for (name, content), seconds, ratio in zip(
        made.items(), np.median(times, axis=0), ratios, strict=True
    ):
        right = litert.predict(content, images).argmax(-1) == study.data.y_test
        share = 100 * len(content) / size
        yield (
            f"| {name} | {right.mean():.4f} | {len(content):,} | {share:.1f} % "
            f"| {1000 * seconds:.3f} | {ratio:.2f} |"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="cifar10", help="as for benchmarks.full_size")
    parser.add_argument("--experiment", default="mobilenet", choices=full_size.EXPERIMENTS)
    parser.add_argument("--epochs", type=int, default=None, help="of the rows to take")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workdir", default="runs/full_size")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--toy", action="store_true")
    arguments = parser.parse_args()
    if arguments.toy:
        with tempfile.TemporaryDirectory() as folder:
            data = pq.datasets.load("digits")
            study = full_size.Study("toy", 0, 1, data, pathlib.Path(folder))
            names = ["ternary, ends at 8 bits, memory"]
            for name in (FULL_PRECISION, *names):
                study.run(name)
            print("\n".join(table(study, names, 1)))
        return
    data, folder = pq.datasets.load(arguments.dataset), pathlib.Path(arguments.workdir)
    epochs = arguments.epochs or full_size.EXPERIMENTS[arguments.experiment].epochs
    study = full_size.Study(arguments.experiment, arguments.seed, epochs, data, folder)
    finished = [name for name in full_size.ROWS if study.weights_of(name).exists()]
    if FULL_PRECISION not in finished:
        parser.error(
            f"no finished row '{FULL_PRECISION}' in '{study.folder}': run benchmarks.full_size "
            f"--experiment={arguments.experiment} --epochs={epochs} first."
        )
    finished.remove(FULL_PRECISION)
    print("\n".join(table(study, finished, arguments.rounds)))


if __name__ == "__main__":
    main()
