"""Bad input to the rooms that train: each case is a clear ValueError, and nothing is written."""

import pathlib
import tempfile
import unittest

import keras
import numpy as np
from keras import layers, ops

import tf_proxquant as pq
from tf_proxquant import packing, selection
from tf_proxquant.datasets import Batches, images

NAN, INF = float("nan"), float("inf")


def adam():
    return keras.optimizers.Adam(0.01)


def quant(inner_optimizer="adam", quantizer=None, strength=1.0, **arguments):
    return pq.ProxQuant(inner_optimizer, quantizer or pq.Binary(), strength, **arguments)


def connect(inner_optimizer="adam", quantizer=None, strength=None, **arguments):
    return pq.ProxConnect(inner_optimizer, quantizer or pq.Binary(), strength, **arguments)


def variable(values, name="kernel", **arguments):
    return keras.Variable(values, name=name, **arguments)


def make_model(optimizer=None):
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(3, name="hidden"), layers.Dense(2, name="head")],
        name="net",
    )
    model.compile(optimizer or quant(), "mse")
    return model


def resolve(select, quantizer=None, variables=None):
    return selection.resolve(
        select, quantizer or pq.Binary(), variables or make_model().trainable_variables
    )


def fit(model, x=None, y=None, callbacks=()):
    x = np.ones((4, 4), "float32") if x is None else x
    y = np.ones((4, 2), "float32") if y is None else y
    model.fit(x, y, verbose=0, callbacks=list(callbacks))


def poisoned(value, optimizer=None):
    """A model with one bad weight, in the second of its two kernels."""
    model = make_model(optimizer)
    kernel = ops.convert_to_numpy(model.get_layer("head").kernel).copy()
    kernel[1, 1] = value
    model.get_layer("head").kernel.assign(kernel)
    return model


def eager_nan():
    """A step outside a graph that makes a NaN in the second channel of the third kernel."""
    optimizer = pq.ProxQuant("sgd", pq.Ternary(axis=-1), 0.1, select="kernel")
    kernels = [keras.Variable(np.ones((3, 4), "float32"), name=f"kernel_{c}") for c in "abc"]
    gradients = [np.ones((3, 4), "float32") for _ in kernels]
    gradients[2][0, 1] = NAN
    optimizer.build(kernels)
    optimizer.apply([ops.convert_to_tensor(g) for g in gradients], kernels)


def monitor(model):
    callback = pq.callbacks.QuantizationMonitor(reference=[])
    callback.set_model(model)
    callback.measure()


def train_with(value):
    x = np.ones((4, 4), "float32")
    x[2, 1] = value
    fit(make_model(), x, callbacks=[pq.callbacks.StopOnNonFinite()])


def data_of(**changes):
    content = {
        "x_train": np.zeros((6, 5, 4), "uint8"),
        "y_train": np.arange(6) % 2,
        "x_test": np.zeros((2, 5, 4), "uint8"),
        "y_test": np.arange(2),
    }
    return images.checked("table", **{**content, **changes})


def batches(**changes):
    arguments = {
        "images": np.zeros((6, 5, 4, 1), "uint8"),
        "labels": np.arange(6) % 2,
        "batch_size": 2,
        "mean": [0.0],
        "std": [1.0],
    }
    return Batches(**{**arguments, **changes})


PROX = pq.prox
SCHEDULES = pq.schedules

# What is wrong, the pattern of the message, and the call.
QUANTIZERS = [
    ("a scale that is no number", "scale='big'", lambda: pq.Binary("big")),
    ("a scale of 0", "scale=0", lambda: pq.Binary(0)),
    ("a negative scale", "scale=-1", lambda: pq.Binary(-1.0)),
    ("a NaN scale", "scale=nan", lambda: pq.Binary(NAN)),
    ("an infinite scale", "scale=inf", lambda: pq.Binary(INF)),
    ("an axis that is no integer", "axis='channels'", lambda: pq.Binary(axis="channels")),
    ("an axis named twice", r"axis=\(1, 1\)", lambda: pq.Ternary(axis=(1, 1))),
    ("no axis in a tuple", r"axis=\(\)", lambda: pq.Ternary(axis=())),
    ("an axis out of range", "axis=5", lambda: pq.Binary("mean", axis=5)(np.ones((2, 2)))),
    ("one axis by two names", "twice", lambda: pq.Binary("mean", (0, -2))(np.ones((2, 2)))),
    ("a negative threshold", "threshold=-0.7", lambda: pq.Ternary(threshold=-0.7)),
    ("a NaN threshold", "threshold=nan", lambda: pq.Ternary(threshold=NAN)),
    ("a flag that is no bool", "optimal='yes'", lambda: pq.Ternary(optimal="yes")),
    ("no bits", "bits=0", lambda: pq.MultiBit(0)),
    ("too many bits", "bits=5", lambda: pq.MultiBit(5)),
    ("half a bit", "bits=1.5", lambda: pq.MultiBit(1.5)),
    ("a bool for bits", "bits=True", lambda: pq.MultiBit(True)),
    ("no rounds", "rounds=0", lambda: pq.MultiBit(2, rounds=0)),
    ("one uniform bit", "bits=1", lambda: pq.Uniform(1)),
    ("nine uniform bits", "bits=9", lambda: pq.Uniform(9)),
    ("two kinds of symmetry", "narrow", lambda: pq.Uniform(3, narrow_range=True, mid_rise=True)),
    ("integer weights", "dtype=int32", lambda: pq.Binary()(np.ones(3, "int32"))),
    ("boolean weights", "dtype=bool", lambda: pq.Ternary()(np.ones(3, bool))),
    ("a NaN weight", "finite", lambda: pq.Ternary()(np.array([1.0, NAN]))),
    ("an infinite weight", "finite", lambda: pq.MultiBit(2).levels(np.array([1.0, INF]))),
    ("a NaN in one group", r"1 of 2 groups: \[1\]", lambda: pq.Ternary(axis=0)([[1.0], [NAN]])),
    ("a config of another version", "colour", lambda: pq.Binary.from_config({"colour": 3})),
]
PROX_AND_SCHEDULES = [
    ("a negative tau", "tau=-1", lambda: PROX.prox_l1([1.0], [1.0], -1)),
    ("a NaN tau", "tau=nan", lambda: PROX.prox_l2([1.0], [1.0], NAN)),
    ("shapes that differ", r"\(2,\) and \(1,\)", lambda: PROX.prox_l1([1.0, 2.0], [1.0], 0.1)),
    ("shapes that would broadcast", "shape", lambda: PROX.prox_l2([[1.0]], [1.0], 0.1)),
    ("one level", "two levels", lambda: PROX.prox_piecewise_affine([1.0], [1.0], 0.5)),
    ("a slope above 1", "slope=2", lambda: PROX.prox_piecewise_affine([1.0], [0.0, 1.0], 2)),
    ("a slope below 0", "slope=-1", lambda: PROX.prox_piecewise_affine([1.0], [0.0, 1.0], -1)),
    ("a negative concave tau", "tau=-2", lambda: PROX.prox_concave([1.0], [0.0, 1.0], -2)),
    ("a negative constant", "value=-1", lambda: SCHEDULES.Constant(-1)),
    ("an infinite constant", "value=inf", lambda: SCHEDULES.Constant(INF)),
    ("a constant that is text", "value='1'", lambda: SCHEDULES.Constant("1")),
    ("a NaN rate", "rate=nan", lambda: SCHEDULES.Linear(NAN)),
    ("a negative rate", "rate=-0.5", lambda: SCHEDULES.Linear(-0.5)),
    ("stairs of no steps", "every=0", lambda: SCHEDULES.Linear(1.0, every=0)),
    ("stairs of half a step", "every=0.5", lambda: SCHEDULES.Linear(1.0, every=0.5)),
    ("an end at the start", "end=5", lambda: SCHEDULES.Sigmoid(5, 5)),
    ("a start below 0", "start=-1", lambda: SCHEDULES.Sigmoid(-1, 5)),
    ("no steepness", "steepness=0", lambda: SCHEDULES.Sigmoid(0, 5, 0)),
    ("a schedule's config of another version", "speed", lambda: SCHEDULES.Linear.from_config(
        {"speed": 1.0})),
]  # fmt: skip
OPTIMIZERS = [
    ("an inner optimizer that is a number", "inner_optimizer=3", lambda: quant(3)),
    ("an inner optimizer that is a class", "inner_optimizer=", lambda: quant(keras.optimizers.SGD)),
    ("an inner optimizer unknown to Keras", "madam", lambda: quant("madam")),
    ("an optimizer wrapped already", "another quantizing", lambda: quant(quant())),
    ("a lazy one inside", "another quantizing", lambda: quant(connect())),
    ("loss scaling inside", "other order", lambda: quant(keras.optimizers.LossScaleOptimizer(
        adam()))),
    ("a quantizer that is text", "'binary'", lambda: quant(quantizer="binary")),
    ("a quantizer that is a class", "an instance", lambda: quant(quantizer=pq.Binary)),
    ("a quantizer that is a function", "must be a", lambda: quant(quantizer=np.sign)),
    ("no quantizer", "None", lambda: pq.ProxQuant("adam", None, 1.0)),
    ("text in a dict of quantizers", "'two'", lambda: quant(select={"kernel": "two"})),
    ("a negative strength", "strength=-1", lambda: quant(strength=-1.0)),
    ("a NaN strength", "strength=nan", lambda: quant(strength=NAN)),
    ("an infinite strength", "strength=inf", lambda: quant(strength=INF)),
    ("a strength that is text", "strength='1'", lambda: quant(strength="1")),
    ("no strength", "strength=None", lambda: pq.ProxQuant("adam", pq.Binary(), None)),
    ("an unknown regularizer", "regularizer='l3'", lambda: quant(regularizer="l3")),
    ("a clip of 0", "clip=0", lambda: quant(clip=0)),
    ("a negative clip", "clip=-1", lambda: quant(clip=-1.0)),
    ("a NaN clip", "clip=nan", lambda: quant(clip=NAN)),
    ("a freeze before the start", "freeze_step=-1", lambda: quant(freeze_step=-1)),
    ("a freeze at half a step", "freeze_step=1.5", lambda: quant(freeze_step=1.5)),
    ("a freeze at True", "freeze_step=True", lambda: quant(freeze_step=True)),
    ("levels never fitted", "update_levels_every=0", lambda: quant(update_levels_every=0)),
    ("weight decay outside", "weight_decay.*inner", lambda: quant(weight_decay=0.1)),
    ("clipnorm outside", "clipnorm.*inner", lambda: quant(clipnorm=1.0)),
    ("averaging outside", "use_ema.*inner", lambda: quant(use_ema=True)),
    ("accumulation outside", "accumulation.*inner", lambda: quant(gradient_accumulation_steps=2)),
    ("a learning rate outside", "learning_rate.*inner", lambda: connect(learning_rate=0.1)),
    ("an unknown argument", "colour", lambda: quant(colour="red")),
    ("a strength for the hard prox", "takes no", lambda: connect(strength=1.0)),
    ("no strength for the l2 prox", "needs a", lambda: connect(prox="l2")),
    ("an unknown prox", "prox='soft'", lambda: connect(prox="soft")),
    ("a share above 1", r"in \[0, 1\]", lambda: connect(strength=1.5, prox="l2")),
    ("a negative share", r"in \[0, 1\]", lambda: connect(strength=-0.5, prox="piecewise_affine")),
    ("apply before build", "build", lambda: quant().apply([ops.zeros(1)])),
    ("no variables to build on", "Nothing to quantize", lambda: quant().build([])),
    ("snap without a quantizing optimizer", "compiled with", lambda: pq.snap(make_model(adam()))),
    ("snap of an uncompiled model", "compiled with", lambda: pq.snap(keras.Sequential())),
    ("snap of an unbuilt model", "must be built", lambda: pq.snap(unbuilt())),
    ("an eager update with a NaN", r"kernel_c.*groups: \[1\] \(axis=-1\)", eager_nan),
    ("snap to a name", "must be a pq.*'binary'", lambda: pq.snap(make_model(adam()), "binary")),
    ("snap to names", "must be a pq.*'binary'", lambda: pq.snap(
        make_model(adam()), None, {"head": "binary"}
    )),
    ("snap of a NaN", r"head/kernel.*NaN", lambda: pq.snap(poisoned(NAN))),
    ("snap of an inf", r"head/kernel.*inf", lambda: pq.snap(poisoned(INF))),
    ("lazy weights from a NaN", "head/kernel", lambda: pq.snap(poisoned(NAN, connect()))),
    ("a frozen start from a NaN", "head/kernel", lambda: pq.snap(
        poisoned(NAN, quant(freeze_step=0)))),
]  # fmt: skip
SELECTION = [
    ("a pattern that matches nothing", r"(?s)'conv'.*net/hidden/kernel \(4, 3\)", lambda: resolve(
        "conv")),
    ("one of two patterns that matches nothing", "'conv'", lambda: resolve(["head", "conv"])),
    ("a pattern of a dict that matches nothing", "'conv'", lambda: resolve({"conv": pq.Binary()})),
    ("a predicate that is never true", "Nothing to quantize", lambda: resolve(lambda v: False)),
    ("an empty list", "Nothing to quantize", lambda: resolve([])),
    ("a dict of None only", "Nothing to quantize", lambda: resolve({"kernel": None})),
    ("two quantizers for one variable", "head/kernel.*disjoint", lambda: resolve(
        {"head": pq.Ternary(), "kernel$": pq.Binary()})),
    ("an invalid regex", r"invalid regex", lambda: quant(select="(")),
    ("a number", "select=3", lambda: quant(select=3)),
    ("a list of numbers", r"select=\[3\]", lambda: quant(select=[3])),
    ("an integer kernel", "int32.*Leave it out", lambda: resolve(
        None, variables=[variable([1, 2], dtype="int32", trainable=False)])),
    ("layers without weights", "Nothing to quantize", lambda: pq.snap(weightless())),
    ("kernels of an unbuilt model", "built model", lambda: pq.select_kernels(unbuilt())),
    ("everything skipped", "Nothing", lambda: pq.select_kernels(make_model(), skip=".")),
    ("a skip that is no regex", "skip=3", lambda: pq.select_kernels(make_model(), skip=3)),
]  # fmt: skip
WATCHING = [
    ("a monitor without a quantizing optimizer", "compiled with", lambda: fit(
        make_model(adam()), callbacks=[pq.callbacks.QuantizationMonitor()])),
    ("an evaluation without one", "compiled with", lambda: fit(
        make_model(adam()), callbacks=[pq.callbacks.QuantizedEvaluation(None)])),
    ("a monitor of a NaN", "head/kernel", lambda: monitor(poisoned(NAN))),
    ("an unknown reaction", "action='panic'", lambda: pq.callbacks.StopOnNonFinite("panic")),
    ("training on a NaN", "net/hidden/kernel.*loss", lambda: train_with(NAN)),
    ("training on an inf", "net/hidden/kernel.*loss", lambda: train_with(INF)),
    ("metrics of other shapes", "same shapes", lambda: pq.metrics.sign_changes([1.0], [1.0, 2.0])),
    ("errors of other shapes", "same shapes", lambda: pq.metrics.quantization_error([1.0], 1.0)),
    ("a picture of no run", "no metrics", lambda: pq.plot.history(tempfile.gettempdir())),
    ("a picture of an unbuilt model", "must be built", lambda: pq.plot.weights(unbuilt())),
    ("a picture of no kernels", "Nothing to quantize", lambda: pq.plot.weights(weightless())),
]  # fmt: skip
DATA = [
    ("images of no channel or too many", r"shapes \(6, 2, 5, 4, 1\)", lambda: data_of(
        x_train=np.zeros((6, 2, 5, 4, 1), "uint8"))),
    ("labels of another count", r"\(5,\)", lambda: data_of(y_train=np.arange(5) % 2)),
    ("labels in one-hot form", r"\(6, 2\)", lambda: data_of(y_train=np.zeros((6, 2), int))),
    ("no training images", "n >= 1", lambda: data_of(
        x_train=np.zeros((0, 5, 4), "uint8"), y_train=np.zeros(0, int))),
    ("no test images", "n >= 1", lambda: data_of(
        x_test=np.zeros((0, 5, 4), "uint8"), y_test=np.zeros(0, int))),
    ("images of integers", "int64", lambda: data_of(x_train=np.zeros((6, 5, 4), "int64"))),
    ("images of text", "must be uint8 or float", lambda: data_of(x_train=np.full((6, 5, 4), "a"))),
    ("a NaN pixel", "NaN or inf", lambda: data_of(x_train=np.full((6, 5, 4), NAN))),
    ("a negative label", "smallest -1", lambda: data_of(y_train=np.arange(6) - 1)),
    ("labels of text", "integer labels.*'a'", lambda: data_of(y_train=np.array([*"ababab"]))),
    ("labels of floats", "integer labels", lambda: data_of(y_train=np.linspace(0, 1, 6))),
    ("one class", "at least 2 classes", lambda: data_of(
        y_train=np.zeros(6, int), y_test=np.zeros(2, int))),
    ("a test label out of range", "up to 1 and 7", lambda: data_of(y_test=np.array([0, 7]))),
    ("test images of another size", r"\(5, 4, 1\) and \(9, 9, 1\)", lambda: data_of(
        x_test=np.zeros((2, 9, 9), "uint8"))),
    ("batches of nothing", "at least 1", lambda: batches(
        images=np.zeros((0, 5, 4, 1)), labels=np.zeros(0))),
    ("batches of other lengths", "6 and 5", lambda: batches(labels=np.arange(5))),
    ("batches of no images", "batch_size=0", lambda: batches(batch_size=0)),
    ("a deviation of 0", "std", lambda: batches(std=[0.0])),
    ("a negative padding", "pad=-1", lambda: batches(pad=-1)),
    ("an unknown data set", "imagenet", lambda: pq.datasets.load("imagenet")),
    ("a file that is not there", "no file", lambda: pq.datasets.load("/nowhere/images.npz")),
    ("a depth that is no ResNet's", "depth=21", lambda: pq.models.resnet(21, (8, 8, 1), 10)),
    ("a network for one class", "1", lambda: pq.models.resnet(8, (8, 8, 1), 1)),
    ("flat images", r"\(64,\)", lambda: pq.models.resnet(8, (64,), 10)),
]  # fmt: skip
PACKING = [
    ("codes too large", "codes from 0 to 2", lambda: packing.pack_codes([0, 2], 2)),
    ("codes too small", "codes from -1", lambda: packing.pack_codes([-1], 1)),
    ("codes of floats", "float64", lambda: packing.pack_codes([0.0], 2)),
    ("no bits", "bits=0", lambda: packing.pack_codes([0], 0)),
    ("too few bytes", "1 bytes", lambda: packing.unpack_codes(b"0", 2, 8)),
    ("a negative count", "count=-1", lambda: packing.unpack_codes(b"", 2, -1)),
    ("a base of 1", "base=1", lambda: packing.pack_digits([0], 1)),
    ("a byte that stands for no digits", "byte 243", lambda: packing.unpack_digits(b"\xf3", 3, 5)),
]


def unbuilt():
    model = keras.Sequential([layers.Dense(2)])
    model.compile(quant(), "mse")
    return model


def weightless():
    model = keras.Sequential([keras.Input((4,)), layers.ReLU()])
    model.compile(quant(), "mse")
    return model


class BadInputTest(unittest.TestCase):
    def check(self, table):
        with tempfile.TemporaryDirectory() as folder:
            for what, pattern, call in table:
                with self.subTest(what), self.assertRaisesRegex(ValueError, pattern):
                    call()
            self.assertEqual(list(pathlib.Path(folder).iterdir()), [])

    def test_quantizers(self):
        self.check(QUANTIZERS)

    def test_prox_and_schedules(self):
        self.check(PROX_AND_SCHEDULES)

    def test_optimizers(self):
        self.check(OPTIMIZERS)

    def test_selection(self):
        self.check(SELECTION)

    def test_callbacks_metrics_and_pictures(self):
        self.check(WATCHING)

    def test_data_and_models(self):
        self.check(DATA)

    def test_packing(self):
        self.check(PACKING)

    def test_there_are_a_hundred_cases_and_more(self):
        tables = (QUANTIZERS, PROX_AND_SCHEDULES, OPTIMIZERS, SELECTION, WATCHING, DATA, PACKING)
        self.assertGreater(sum(map(len, tables)), 130)
