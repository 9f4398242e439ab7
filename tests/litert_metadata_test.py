"""What a file says of itself: metadata, labels, inputs and outputs."""

import io
import pathlib
import tempfile
import unittest
import warnings
import zipfile

import flatbuffers
import keras
import numpy as np
from keras import layers

import tf_proxquant as pq
from tf_proxquant.litert import encoding, metadata, metadata_schema

LABELS = ["kitten", "dog", "red panda", "猫"]
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
# What each profile may differ from Keras by; those of integers round activations.
PROFILES = {"fast": 1e-5, "portable": 1e-5, "small": 1e-5, "balanced": 1e-5, "dynamic": 0.02}


def classifier(channels=3):
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((16, 16, channels)),
            layers.Rescaling(1 / 127.5, -1),
            layers.Conv2D(8, 3, activation="relu"),
            layers.Conv2D(16, 3, strides=2, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(64, activation="relu"),
            layers.Dense(4, kernel_initializer=keras.initializers.RandomNormal(stddev=2)),
            layers.Softmax(),
        ]
    )
    model.compile(pq.ProxQuant("sgd", pq.Binary("mean", axis=-1), 1.0, freeze_step=0))
    model.optimizer.build(model.trainable_variables)
    pq.snap(model)
    return model


class MetadataTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        cls.model = classifier()
        cls.path = cls.folder / "plain.tflite"
        pq.export(cls.model, cls.path)
        cls.plain = cls.path.read_bytes()
        cls.content = metadata.attach(cls.plain, labels=LABELS, name="pets", description="of pets")

    def test_what_was_attached_is_read(self):
        said = metadata.read(self.content)
        self.assertEqual((said["name"], said["description"]), ("pets", "of pets"))
        (pixels,), (scores,) = said["inputs"], said["outputs"]
        self.assertEqual(pixels["color"], "RGB")
        self.assertEqual(pixels["normalization"], ([0.0], [1.0]))
        self.assertEqual(pixels["range"], (0.0, 255.0))
        self.assertEqual(scores["labels"], LABELS)
        self.assertEqual(metadata.read(self.plain), {})

    def test_bytes_are_the_same_each_time_and_metadata_replace_earlier_ones(self):
        again = metadata.attach(self.plain, labels=LABELS, name="pets", description="of pets")
        self.assertEqual(again, self.content)
        earlier = metadata.attach(self.plain, labels=LABELS[::-1], value_range=(-1, 1))
        again = metadata.attach(earlier, labels=LABELS, name="pets", description="of pets")
        self.assertEqual(again, self.content)

    def test_they_cost_little_and_the_labels_are_not_deflated(self):
        self.assertLess(len(self.content) - len(self.plain), 700)
        with zipfile.ZipFile(io.BytesIO(self.content)) as archive:
            (entry,) = archive.infolist()
            self.assertEqual(entry.compress_type, zipfile.ZIP_STORED)
            self.assertEqual(archive.read(entry).decode().splitlines(), LABELS)

    def test_the_model_within_is_untouched(self):
        found = pq.litert.predict(self.content, PIXELS)
        np.testing.assert_array_equal(found, pq.litert.predict(self.plain, PIXELS))
        rows = []
        for content in (self.plain, self.content):
            self.path.write_bytes(content)
            rows.append(pq.inspect(self.path).rows)
        self.assertEqual(*rows)

    def test_pixels_of_other_ranges_are_normalized_for_the_application(self):
        content = metadata.attach(self.plain, value_range=(-1, 1))
        (pixels,) = metadata.read(content)["inputs"]
        (mean,), (std,) = pixels["normalization"]
        np.testing.assert_allclose([(0 - mean) / std, (255 - mean) / std], [-1, 1], atol=1e-6)
        content = metadata.attach(self.plain, normalization=([1.0, 2, 3], [4.0, 5, 6]))
        (pixels,) = metadata.read(content)["inputs"]
        self.assertEqual(pixels["normalization"], ([1.0, 2.0, 3.0], [4.0, 5.0, 6.0]))

    def test_mediapipes_own_schema_reads_them(self):
        try:
            from mediapipe.tasks.metadata import metadata_schema_py_generated as published
        except ImportError:
            self.skipTest("mediapipe is not installed: pip install mediapipe")
        packed = metadata._entry(self.content)
        root = published.ModelMetadataT.InitFromPackedBuf(packed, 0)
        self.assertEqual((root.name, root.minParserVersion), (b"pets", b"1.0.0"))
        (graph,) = root.subgraphMetadata
        (pixels,), (scores,) = graph.inputTensorMetadata, graph.outputTensorMetadata
        self.assertEqual(pixels.content.contentProperties.colorSpace, published.ColorSpaceType.RGB)
        self.assertEqual(list(pixels.processUnits[0].options.std), [1.0])
        self.assertEqual((list(pixels.stats.max), list(pixels.stats.min)), ([255.0], [0.0]))
        (labels,) = scores.associatedFiles
        self.assertEqual(labels.name, b"labels.txt")
        self.assertEqual(labels.type, published.AssociatedFileType.TENSOR_AXIS_LABELS)

    def test_bad_labels_and_ranges_are_refused(self):
        cases = {
            "3 labels for outputs of the shapes": {"labels": LABELS[:3]},
            "one line of text.*'a.nb'": {"labels": ["a\nb", "c", "d", "e"]},
            "one line of text.*''": {"labels": ["", "c", "d", "e"]},
            "must be a list": {"labels": "abcd"},
            "needs an input of word numbers": {"vocabulary": ["a"]},
            r"lowest, highest.*\(1, 0\)": {"value_range": (1, 0)},
            "std greater than 0.*0": {"normalization": (0, 0)},
            "each of the 3 channels": {"normalization": ([0, 0], [1, 1])},
        }
        for pattern, arguments in cases.items():
            with self.subTest(pattern), self.assertRaisesRegex(ValueError, f"(?s){pattern}"):
                metadata.attach(self.plain, **arguments)

    def test_damaged_metadata_are_an_error_and_never_a_crash(self):
        packed = metadata_schema.encode({"name": "n", "graphs": [{"inputs": [{"name": "x"}]}]})
        random = np.random.default_rng(0)
        for _ in range(300):
            damaged = bytearray(packed)
            damaged[random.integers(len(damaged))] = random.integers(256)
            content = self.content.replace(packed, bytes(damaged))
            at = random.integers(len(self.content) // 2, len(self.content))
            content = self.content[:at] + bytes([random.integers(256)]) + self.content[at + 1 :]
            try:
                metadata.read(content)
            except ValueError as error:
                self.assertIn("damaged", str(error))

    def test_a_small_file_whose_tables_are_shared_does_not_unpack_into_a_huge_one(self):
        builder = flatbuffers.Builder(0)
        table = metadata_schema._write(builder, "ProcessUnit", {})
        for slot in (4, 2, 3):  # process_units, input_tensor_metadata, subgraph_metadata
            builder.StartVector(4, 2000, 4)
            for _ in range(2000):
                builder.PrependUOffsetTRelative(table)
            vector = builder.EndVector()
            builder.StartObject(8)
            builder.PrependUOffsetTRelativeSlot(slot, vector, 0)
            table = builder.EndObject()
        builder.Finish(table, metadata_schema.IDENTIFIER)
        with self.assertRaisesRegex(ValueError, "more tables than"):
            metadata_schema.decode(bytes(builder.Output()))


class ExportTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        cls.model = classifier()
        cls.expected = cls.model.predict(PIXELS.astype("float32"), verbose=0)
        cls.reports = {}
        for profile in PROFILES:
            path = cls.folder / f"{profile}.tflite"
            cls.reports[profile] = pq.export(
                cls.model, path, profile, labels=LABELS, inputs=PIXELS[:2].astype("float32")
            )

    def test_labels_lie_in_the_file_and_beside_it_in_every_profile(self):
        self.assertEqual((self.folder / "labels.txt").read_text("utf-8").splitlines(), LABELS)
        for profile, report in self.reports.items():
            with self.subTest(profile):
                content = pathlib.Path(report.path).read_bytes()
                self.assertEqual(len(content), report.bytes)
                self.assertEqual(metadata.read(content)["outputs"][0]["labels"], LABELS)

    def test_the_report_and_the_inspection_say_what_goes_in_and_out(self):
        for report in (self.reports["fast"], pq.inspect(self.folder / "fast.tflite")):
            (pixels,), (scores,) = report.inputs, report.outputs
            self.assertEqual((pixels.dtype, pixels.shape), ("float32", (None, 16, 16, 3)))
            self.assertEqual((pixels.color, pixels.range), ("RGB", (0, 255)))
            self.assertEqual((scores.shape, scores.labels), ((None, 4), tuple(LABELS)))
            self.assertRegex(str(report), r"float32 any x 16 x 16 x 3, .* in RGB, values 0 to 255")
            self.assertIn("4 labels: kitten, dog, red panda, 猫", str(report))
            self.assertEqual(report.to_dict()["outputs"][0]["labels"], tuple(LABELS))

    def test_words_lie_in_the_file_and_beside_it(self):
        inputs = keras.Input((5,), dtype="int32")
        model = keras.Model(inputs, layers.Dense(3)(layers.Embedding(3, 4)(inputs)))
        words = ["<eos>", "the", "cat"]
        report = pq.export(model, self.folder / "text.tflite", vocabulary=words)
        self.assertEqual(report.inputs[0].vocabulary, tuple(words))
        self.assertEqual((self.folder / "vocabulary.txt").read_text().split(), words)

    def test_a_labelled_file_keeps_what_it_says_when_it_is_exported_again(self):
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        target, source = folder / "again.tflite", folder / "labelled.tflite"
        # The float file, as another program would have labelled it.
        plain = encoding.encode(self.model, "fast").float_content
        content = metadata.attach(plain, labels=LABELS, name="pets", normalization=(127, 128))
        source.write_bytes(content)
        for profile in ("fast", "small", "static"):
            data = {"representative_data": PIXELS.astype("float32")} if profile == "static" else {}
            with self.subTest(profile):
                report = pq.export(source, target, profile, **data)
                self.assertEqual(metadata.read(target.read_bytes()), metadata.read(content))
                self.assertEqual(report.outputs[0].labels, tuple(LABELS))
                self.assertEqual(report.bytes, target.stat().st_size)
        others = [name[::-1] for name in LABELS]
        pq.export(source, target, labels=others)
        again = metadata.read(target.read_bytes())
        self.assertEqual(again["outputs"][0]["labels"], others)
        self.assertEqual(again["name"], "pets")
        self.assertEqual(again["inputs"][0]["normalization"], ([127.0], [128.0]))
        pq.export(source, target, value_range=(0, 1))
        again = metadata.read(target.read_bytes())
        self.assertEqual(again["inputs"][0]["range"], (0, 1))
        self.assertEqual(again["inputs"][0]["normalization"], ([0.0], [255.0]))
        self.assertEqual(again["outputs"][0]["labels"], LABELS)
        pq.export(source, target, strip_names=True)
        self.assertEqual(metadata.read(target.read_bytes()), {})
        self.assertNotIn(b"red panda", target.read_bytes())

    def test_a_file_with_damaged_labels_is_exported_without_them_or_not_at_all(self):
        content = (self.folder / "fast.tflite").read_bytes()
        source, target = self.folder / "damaged.tflite", self.folder / "again.tflite"
        at = content.rindex(b"red panda")
        source.write_bytes(content[:at] + b"RED" + content[at + 3 :])
        with self.assertRaisesRegex(ValueError, "metadata.*damaged.*strip_names=True"):
            pq.export(source, target)
        pq.export(source, target, strip_names=True)

    def test_more_words_than_rows_are_refused_and_fewer_are_not(self):
        path = self.folder / "words.tflite"
        for dtype, options in (("int32", {}), ("int64", {"mask_zero": True})):
            inputs = keras.Input((5,), dtype=dtype)
            table = layers.Embedding(3, 4, **options)(inputs)
            model = keras.Model(inputs, layers.Dense(3)(table))
            with self.assertRaisesRegex(ValueError, "4 words for a table of 3 rows"):
                pq.export(model, path, vocabulary=list("abcd"))
            self.assertFalse(path.exists())
            report = pq.litert.preview(model, vocabulary=["a", "b"])
            self.assertEqual(report.inputs[0].vocabulary, ("a", "b"))

    def test_labels_that_do_not_fit_leave_everything_as_it_was(self):
        before = {path.name: path.read_bytes() for path in self.folder.iterdir()}
        with self.assertRaisesRegex(ValueError, "2 labels"):
            pq.export(self.model, self.folder / "fast.tflite", labels=["a", "b"])
        self.assertEqual({p.name: p.read_bytes() for p in self.folder.iterdir()}, before)

    def test_mediapipe_classifies_pictures_with_the_files_as_keras_does(self):
        try:
            import mediapipe
            from mediapipe.tasks.python import BaseOptions, vision
        except ImportError:
            self.skipTest("mediapipe is not installed: pip install mediapipe")
        for profile, tolerance in PROFILES.items():
            with self.subTest(profile), warnings.catch_warnings():
                options = vision.ImageClassifierOptions(
                    base_options=BaseOptions(str(self.folder / f"{profile}.tflite")), max_results=4
                )
                with vision.ImageClassifier.create_from_options(options) as run:
                    for picture, expected in zip(PIXELS, self.expected, strict=True):
                        image = mediapipe.Image(mediapipe.ImageFormat.SRGB, picture)
                        found = run.classify(image).classifications[0].categories
                        names = [each.category_name for each in found]
                        self.assertEqual(names, [LABELS[each.index] for each in found])
                        scores = [each.score for each in sorted(found, key=lambda e: e.index)]
                        np.testing.assert_allclose(scores, expected, atol=tolerance)
