"""Bad files, folders and disks: each case is a clear ValueError, and no file changes or appears."""

import contextlib
import hashlib
import json
import pathlib
import resource
import shutil
import tempfile
import unittest
import zipfile

import keras
import numpy as np
from keras import layers

import tf_proxquant as pq
from tf_proxquant import training
from tf_proxquant.litert.read import convert
from tf_proxquant.training.workdir import Workdir


def small_model(name="small"):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((8,)), layers.Dense(16), layers.ReLU(), layers.Dense(4)], name=name
    )


def hashes(folder):
    """What lies in a folder: names, and digests of the contents."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def change_config(path, target, change):
    """Copies a .keras file with its config changed."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as changed:
        for name in source.namelist():
            content = source.read(name)
            if name == "config.json":
                config = json.loads(content)
                change(config)
                content = json.dumps(config)
            changed.writestr(name, content)


@contextlib.contextmanager
def disk_full_after(num_bytes):
    """Context in which a file cannot grow beyond `num_bytes`, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class BadFilesTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        cls.model = small_model()
        cls.model.compile(pq.ProxQuant("adam", pq.Binary(), 1.0, freeze_step=0), "mse")
        cls.model.fit(np.ones((4, 8)), np.ones((4, 4)), verbose=0)
        cls.keras_file = cls.folder / "model.keras"
        cls.model.save(cls.keras_file)
        cls.tflite = cls.folder / "model.tflite"
        pq.export(cls.model, cls.tflite, archive=True)
        cls.archive = cls.folder / "model.tflite.pqz"

    def check(self, table):
        before = hashes(self.folder)
        for what, pattern, call in table:
            with self.subTest(what):
                with self.assertRaisesRegex(ValueError, pattern):
                    call()
                self.assertEqual(hashes(self.folder), before)

    def write(self, name, content):
        path = self.folder / name
        path.write_bytes(content)
        return path

    def export(self, source, target=None, *arguments, **named):
        return lambda: pq.export(source, target or self.tflite, *arguments, **named)

    def test_export(self):
        model, folder = self.model, self.folder
        unbuilt, nan = keras.Sequential([layers.Dense(2)]), small_model()
        kernel = nan.layers[0].kernel.numpy()
        kernel[0, 0] = np.nan
        nan.layers[0].kernel.assign(kernel)
        samples = np.ones((2, 8), "float32")
        self.check(
            [
                ("a number for a model", "3", self.export(3)),
                ("no such model", "no model file", self.export(folder / "none.keras")),
                ("another suffix", "must end in .keras", self.export(folder / "model.onnx")),
                ("a target of another suffix", ".tflite", self.export(model, folder / "a.bin")),
                ("a target without a folder", "no folder", self.export(model, "/no/m.tflite")),
                ("a target that is a number", "path", self.export(model, 7)),
                ("an unknown profile", "tiny", self.export(model, None, "tiny")),
                ("a slowdown for fast", "max_slowdown", self.export(model, max_slowdown=2.0)),
                ("three dense bits", "dense_bits|3", self.export(
                    model, None, "dynamic", dense_bits=3)),
                ("a batch of nothing", "batch_size", self.export(model, batch_size=0)),
                ("an unbuilt model", "Build the model", self.export(unbuilt)),
                ("a NaN weight", "kernel' with 1 such", self.export(nan)),
                ("static without data", "representative_data", self.export(model, None, "static")),
                ("static data of another shape", r"\(2, 9\)", self.export(
                    model, None, "static", representative_data=np.ones((2, 9), "float32"))),
                ("inputs of another shape", r"\(2, 8, 1\)", self.export(
                    model, inputs=samples[..., None])),
                ("predicting on another shape", r"\(2, 9\)", lambda: pq.litert.predict(
                    str(self.tflite), np.ones((2, 9), "float32"))),
                ("summary of an unbuilt model", "built", lambda: pq.summary(unbuilt)),
            ]
        )  # fmt: skip

    def test_tflite_files_and_archives(self):
        content, packed = self.tflite.read_bytes(), bytearray(self.archive.read_bytes())
        packed[-1] ^= 1
        empty, text = self.write("empty.tflite", b""), self.write("text.tflite", b"x" * 99)
        cut = self.write("cut.tflite", content[: len(content) // 2])
        flipped = self.write("flipped.pqz", bytes(packed))
        short = self.write("short.pqz", bytes(packed[:20]))
        version = self.write("version.pqz", b"PQZ\x63" + bytes(packed[4:]))
        self.check(
            [
                ("a file that is not there", "no file", lambda: pq.inspect("/nowhere.tflite")),
                ("a folder", "no file", lambda: pq.inspect(self.folder)),
                ("an empty file", "0 bytes", lambda: pq.inspect(empty)),
                ("a text file", "TFL3", lambda: pq.inspect(text)),
                ("half a file", "damaged", lambda: pq.inspect(cut)),
                ("exporting half a file", "damaged", self.export(cut)),
                ("a flipped bit", "archive", lambda: pq.expand(flipped)),
                ("a truncated archive", "header", lambda: pq.expand(short)),
                ("an archive of another version", "version 99", lambda: pq.expand(version)),
                ("an archive that is a number", "path or bytes", lambda: pq.expand(3)),
                ("a larger file than allowed", "max_bytes", lambda: pq.expand(
                    self.archive, max_bytes=10)),
            ]
        )  # fmt: skip

    def test_keras_files(self):
        content = self.keras_file.read_bytes()
        half = self.write("half.keras", content[: len(content) // 2])
        text = self.write("text.keras", b"no archive")
        newer = self.folder / "newer.keras"
        change_config(self.keras_file, newer, lambda config: config["config"]["layers"][1].update(
            class_name="Denser", module="keras.layers"))  # fmt: skip
        hostile = self.folder / "hostile.keras"
        proof = self.folder / "executed"
        inputs = keras.Input((8,))
        marker = str(proof)
        run = layers.Lambda(lambda x: (__import__("os").makedirs(marker, exist_ok=True), x)[1])(
            inputs
        )
        keras.Model(inputs, layers.Dense(2)(run)).save(hostile)
        proof.rmdir()
        cases = [
            ("half a file", "half.keras", half),
            ("a text file", "text.keras", text),
            ("a layer of a later version", "(?s)newer.keras.*Denser", newer),
            ("code inside, which must not run", "(?s)hostile.keras.*Lambda.*unsafe", hostile),
        ]
        self.check([(what, pattern, self.export(path)) for what, pattern, path in cases])
        settings = {"full_precision_epochs": 0, "epochs": 1, "workdir": str(self.folder / "run")}
        for what, pattern, path in cases:
            what = f"{what}, to start from"
            with self.subTest(what), self.assertRaisesRegex(ValueError, pattern):
                training.run(training.Settings(**settings, init_from=str(path)))
            shutil.rmtree(self.folder / "run", ignore_errors=True)
        self.assertFalse(proof.exists())

    def test_an_optimizer_of_another_version_is_refused_by_name(self):
        newer = self.folder / "optimizer.keras"
        change_config(self.keras_file, newer, lambda config: config["compile_config"]["optimizer"][
            "config"]["quantizer"]["config"].update(colour="red"))  # fmt: skip
        with self.assertRaisesRegex(ValueError, "another version.*colour"):
            keras.saving.load_model(newer)

    def test_a_full_disk(self):
        small_enough = Workdir(self.folder)
        big = np.random.default_rng(0).normal(size=(256, 256))
        large = keras.Sequential([keras.Input((256,)), layers.Dense(256)])
        large.layers[0].kernel.assign(big)
        source = self.write("float.tflite", convert.convert(large)[0])
        before = hashes(self.folder)
        table = [
            ("an export", "model.tflite.*written", self.export(source)),
            ("a model", "model.keras.*written", lambda: small_enough.save_model(
                large, "model.keras")),
            ("lines", "rows.jsonl.*written", lambda: small_enough.write_lines(
                "rows.jsonl", [{"a": "x" * 99}] * 999)),
            ("a picture", "w.png.*written", lambda: pq.plot.weights(large, self.folder / "w.png")),
        ]  # fmt: skip
        for what, pattern, call in table:
            refused = self.assertRaisesRegex(ValueError, pattern)
            with self.subTest(what), refused, disk_full_after(4096):
                call()
            self.assertEqual(hashes(self.folder), before)

    def test_workdirs(self):
        def run(**changes):
            settings = {"full_precision_epochs": 0, "epochs": 1, **changes}
            return lambda: training.run(training.Settings(**settings))

        taken = self.folder / "taken"
        taken.mkdir()
        (taken / "settings.json").write_text("{")
        (taken / "notes.txt").write_text("mine")
        file = str(self.keras_file)
        self.check(
            [
                ("a folder in use", "not empty", run(workdir=str(taken))),
                ("a file", "not empty|file", run(workdir=file)),
                ("under a file", "cannot be written", run(workdir=f"{file}/run")),
                ("under /proc", "cannot be written", run(workdir="/proc/run")),
                ("resuming nothing", "no run to resume", run(workdir="/nowhere", resume=True)),
                ("resuming half-written settings", "settings.json.*damaged", run(
                    workdir=str(taken), resume=True)),
            ]
        )  # fmt: skip

    def test_a_damaged_checkpoint_is_named_and_left_alone(self):
        for name in ("full_precision-0001.keras", "full_precision.keras"):
            folder = self.folder / f"of {name}"
            settings = {"epochs": 1, "full_precision_epochs": 2, "workdir": str(folder)}
            Workdir.open(training.Settings(**settings))
            (folder / name).write_bytes(self.keras_file.read_bytes()[:-99])
            before = hashes(folder)
            with self.subTest(name), self.assertRaisesRegex(ValueError, f"{name}.*damaged"):
                training.run(training.Settings(**settings, resume=True))
            self.assertEqual(hashes(folder), before)


if __name__ == "__main__":
    unittest.main()
