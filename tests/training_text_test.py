"""Whole runs of train.py on text."""

import math
import pathlib
import unittest

import keras
import numpy as np

import tf_proxquant as pq
from tests.training_cases import finish_run, run_train
from tf_proxquant import datasets, litert, models, training
from tf_proxquant.training import text

SHORT = ["--model=lstm", "--quantizer=multibit", "--hidden=16", "--full_precision_epochs=2"]
SHORT += ["--epochs=3", "--freeze_epoch=2"]


class RunTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        finish_run(cls, SHORT)

    def test_keras_the_file_and_the_streaming_file_have_one_perplexity(self):
        report = self.report
        self.assertTrue(1 < report["quantized_perplexity"] < 30)
        self.assertTrue(1 < report["full_precision_perplexity"] < 30)
        for key in ("tflite_perplexity", "streaming_tflite_perplexity"):
            ratio = report[key] / report["quantized_perplexity"]
            self.assertAlmostEqual(ratio, 1, delta=1e-4, msg=key)
        self.assertEqual(report["on_grid"], 1.0)
        self.assertLess(report["streaming_tflite_bytes"], report["streaming_float_tflite_bytes"])

    def test_the_words_lie_beside_the_files_by_their_numbers(self):
        words = (self.workdir / "vocabulary.txt").read_text().splitlines()
        self.assertEqual(tuple(words), datasets.load_text("grammar").vocabulary)
        self.assertEqual(self.report["input"]["range"], [0, len(words) - 1])

    def test_a_loop_for_one_stream_has_the_same_perplexity_too(self):
        model = keras.saving.load_model(self.workdir / "quantized.keras")
        path = str(self.workdir / "loop.tflite")
        litert.export(models.with_states(model, 5, unroll=False), path, "fast")
        data = datasets.load_text("grammar")
        found = text.perplexity_of_file(path, datasets.Streams(data.test, 20, 20), "builtin")
        self.assertAlmostEqual(found / self.report["quantized_perplexity"], 1, delta=1e-4)

    def test_a_killed_run_resumes_to_the_same_bits(self):
        expected = keras.saving.load_model(self.workdir / "model.keras").get_weights()
        workdir = pathlib.Path(self.folder.name, "killed")
        killed = run_train(*SHORT, f"--workdir={workdir}", kill_after=3)
        self.assertEqual(killed.returncode, -9, killed.stderr)
        resumed = run_train(*SHORT, f"--workdir={workdir}", "--resume")
        self.assertEqual(resumed.returncode, 0, resumed.stderr)
        found = keras.saving.load_model(workdir / "model.keras").get_weights()
        for value, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(value, other)
        name = "metrics.jsonl"
        self.assertEqual((workdir / name).read_text(), (self.workdir / name).read_text())

    def test_a_model_of_other_sizes_is_refused_as_a_start(self):
        settings = training.Settings(
            model="lstm", hidden=8, init_from=str(self.workdir / "full_precision.keras"),
            workdir=str(pathlib.Path(self.folder.name, "other")),
        )  # fmt: skip
        with self.assertRaisesRegex(ValueError, r"\(136, 16\).*\(136, 8\)"):
            training.run(settings)


class TextTaskTest(unittest.TestCase):
    def test_rows_of_every_matrix_have_their_own_levels_and_a_shared_table_is_one(self):
        for quantizer, num_levels in (("binary", 2), ("ternary", 3), ("multibit", 4)):
            settings = training.Settings(
                model="lstm", quantizer=quantizer, hidden=24, tied=True, layers=2
            )
            task = text.TextTask(settings)
            model = task.make_model()
            default, options = task.quantization(model)
            optimizer = pq.ProxQuant("sgd", default, 1.0, **options)
            optimizer.build(model.trainable_variables)
            pairs = optimizer.quantized_variables
            self.assertEqual(len(pairs), 5)
            for variable, quantize in pairs:
                by_row = keras.ops.convert_to_numpy(quantize(variable))
                by_row = by_row if "embeddings" in variable.path else by_row.T
                counts = [len(np.unique(row)) for row in by_row]
                self.assertEqual(max(counts), num_levels, variable.path)
                self.assertGreater(len(np.unique(by_row)), len(by_row), variable.path)


class DecayOnStallTest(unittest.TestCase):
    def test_the_rate_falls_when_the_best_perplexity_is_exceeded_and_resumes(self):
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(1.0))
        perplexities = [50.0, 40.0, 45.0, 39.0, 39.5, 39.2]
        rows = [{"epoch": e, "val_perplexity": p} for e, p in enumerate(perplexities)]
        whole, rates = text.DecayOnStall(20.0), []
        whole.set_model(model)
        for epoch, row in enumerate(rows):
            whole.on_epoch_begin(epoch)
            rates.append(float(model.optimizer.learning_rate))
            whole.on_epoch_end(epoch, row)
            resumed = text.DecayOnStall(20.0, rows=rows)
            resumed.set_model(model)
            resumed.on_epoch_begin(epoch)
            self.assertEqual(float(model.optimizer.learning_rate), rates[-1])
        exponents = [round(math.log(20 / rate, 1.2)) for rate in rates]
        self.assertEqual(exponents, [0, 0, 0, 1, 1, 2])
