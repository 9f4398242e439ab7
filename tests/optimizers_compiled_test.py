"""Updates compiled by XLA, and small kernels fitted together."""

import itertools
import math
import unittest
from unittest import mock

import keras
import numpy as np
from keras import layers, ops

import tf_proxquant as pq
from tests import optimizers_cases as cases
from tf_proxquant.optimizers import bundles, graphs

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"


def proxquant(quantizer=None, **arguments):
    arguments = {"jit_compile": True, **arguments}
    return pq.ProxQuant(keras.optimizers.Adam(0.01), quantizer or pq.Ternary(), 1.0, **arguments)


def make_step(optimizer, variables, gradients):
    """Returns a function that applies the optimizer once, in a graph, as `fit` does."""

    def step():
        optimizer.apply(gradients, variables)

    if not ON_TENSORFLOW:
        return step
    import tensorflow as tf

    return tf.function(step)


def run_graph(optimizer, variables, gradients, steps):
    """Applies `optimizer` some steps."""
    step = make_step(optimizer, variables, gradients)
    for _ in range(steps):
        step()


def made_up(shapes, dtype="float32", seed=0):
    random = np.random.default_rng(seed)
    variables = []
    for i, shape in enumerate(shapes):
        name = "bias" if len(shape) == 1 else "kernel"
        variable = keras.Variable(random.normal(size=shape) * 0.2, dtype=dtype, name=name)
        variable._path = f"layer{i}/{name}"
        variables.append(variable)
    gradients = [ops.convert_to_tensor(random.normal(size=s).astype(dtype)) for s in shapes]
    return variables, gradients


QUANTIZERS = {
    "binary": pq.Binary(),
    "binary per channel": pq.Binary("mean", axis=-1),
    "ternary": pq.Ternary(axis=-1),
    "2 bits": pq.MultiBit(2),
    "uniform": pq.Uniform(4, axis=-1),
}
SHAPES = [(3, 3, 4, 8), (3, 3, 8, 8), (3, 3, 8, 8), (20, 8), (8,)]


class CompiledTest(unittest.TestCase):
    def test_same_as_not_compiled(self):
        methods = {
            "l1": lambda q, **a: proxquant(q, prox="l1", clip=1.0, **a),
            "l2": lambda q, **a: proxquant(q, prox="l2", **a),
            "concave": lambda q, **a: proxquant(q, prox="concave", **a),
            "parq": lambda q, **a: pq.ProxConnect(
                keras.optimizers.Adam(0.01), q, 0.5, prox="piecewise_affine", **a
            ),
        }
        pairs = [
            ("l1", "binary"),
            ("concave", "binary per channel"),
            ("l2", "2 bits"),
            ("concave", "ternary"),
            ("parq", "uniform"),
        ]
        for name, quantizer in pairs:
            make, ends = methods[name], []
            for jit_compile in (False, True):
                variables, gradients = made_up(SHAPES[1:4], dtype="float64")
                optimizer = make(
                    QUANTIZERS[quantizer],
                    jit_compile=jit_compile,
                    freeze_step=6,
                    update_levels_every=2,
                )
                run_graph(optimizer, variables, gradients, 5)
                ends.append([ops.convert_to_numpy(v) for v in optimizer.variables + variables])
            with self.subTest(method=name, quantizer=quantizer):
                for plain, compiled in zip(*ends, strict=True):
                    np.testing.assert_allclose(compiled, plain, rtol=1e-9, atol=1e-12)

    def test_kept_levels_are_not_fitted_when_they_are_not_due(self):
        """They stay bit for bit; compiled, a fit that is not due must not run at all."""
        optimizer = proxquant(pq.Ternary(), update_levels_every=3)
        variables, gradients = made_up(SHAPES)
        step = make_step(optimizer, variables, gradients)
        seen = []
        for _ in range(7):
            step()
            levels = [v for v in optimizer.variables if "levels" in v.path]
            seen.append(np.concatenate([ops.convert_to_numpy(v).ravel() for v in levels]))
        changes = [bool(np.any(a != b)) for a, b in itertools.pairwise(seen)]
        self.assertEqual(changes, [False, False, True, False, False, True])

    def test_every_inner_optimizer_compiles(self):
        for name, make in cases.INNER.items():
            with self.subTest(name):
                optimizer = pq.ProxQuant(
                    make(), pq.Binary(), 1.0, freeze_step=3, clip=1.0, jit_compile=True
                )
                variables, gradients = made_up(SHAPES[3:])
                run_graph(optimizer, variables, gradients, 4)
                self.assertTrue(cases.on_grid(ops.convert_to_numpy(variables[0])))

    def test_frozen_weights_stay_bit_identical(self):
        for name, quantizer in QUANTIZERS.items():
            with self.subTest(name):
                optimizer = proxquant(quantizer, freeze_step=2)
                variables, gradients = made_up(SHAPES[2:])
                step = make_step(optimizer, variables, gradients)
                step(), step()
                *frozen, bias = (ops.convert_to_numpy(v) for v in variables)
                step(), step(), step()
                for before, variable in zip(frozen, variables, strict=False):
                    np.testing.assert_array_equal(ops.convert_to_numpy(variable), before)
                self.assertTrue(np.any(ops.convert_to_numpy(variables[-1]) != bias))

    @unittest.skipUnless(ON_TENSORFLOW, "Keras compiles on the other backends")
    def test_large_models_are_compiled_and_small_ones_are_not(self):
        import tensorflow as tf

        def compiled(optimizer, shapes, strategy=None):
            """Whether one apply in a graph makes a function that XLA must compile."""
            variables, gradients = made_up(shapes)
            optimizer.build(variables)
            step = tf.function(lambda: optimizer.apply(gradients, variables))
            graph = step.get_concrete_function().graph.as_graph_def()
            return any("_XlaMustCompile" in f.attr for f in graph.library.function)

        large, small = [(512, 256)], [(511, 256)]
        self.assertEqual(math.prod(large[0]), graphs.LARGE)
        third_party = pq.ProxQuant(cases.ThirdPartyOptimizer(0.01), pq.Binary(), 1.0)
        for expected, optimizer, shapes in (
            (True, proxquant(jit_compile="auto"), large),
            (False, proxquant(jit_compile="auto"), small),
            (True, proxquant(jit_compile=True), small),
            (False, proxquant(jit_compile=False), large),
            (False, third_party, large),
            (False, proxquant(pq.Binary("median"), jit_compile="auto"), large),
            (True, proxquant(pq.Ternary(optimal=True), jit_compile="auto"), large),
            (False, proxquant(pq.Ternary(optimal=True, axis=-1), jit_compile="auto"), large),
            (True, pq.ProxConnect(keras.optimizers.Adam(), pq.Binary()), large),
            (True, proxquant(jit_compile="auto", freeze_step=221), small),
            (False, proxquant(jit_compile="auto", freeze_step=220), small),
            (False, proxquant(pq.Binary("median"), jit_compile="auto", freeze_step=3000), small),
        ):
            with self.subTest(expected=expected, optimizer=optimizer.get_config()):
                self.assertIs(compiled(optimizer, shapes), expected)
        with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
            self.assertIsNone(graphs.first_compiled(proxquant()))

    @unittest.skipUnless(ON_TENSORFLOW, "Keras compiles on the other backends")
    def test_a_long_run_is_compiled_after_some_steps(self):
        with mock.patch.object(graphs, "TRIED", 3), mock.patch.object(graphs, "LATE", 8):
            for memory, (name, quantizer) in itertools.product((0.0, 0.9), QUANTIZERS.items()):
                arguments = {"prox": "piecewise_affine", "freeze_step": 8, "memory": memory}
                ends = []
                for jit_compile in (False, "auto"):
                    optimizer = pq.ProxQuant(
                        keras.optimizers.Adam(0.01), quantizer, jit_compile=jit_compile, **arguments
                    )
                    variables, gradients = made_up(SHAPES)
                    step = make_step(optimizer, variables, gradients)
                    seen = []
                    for _ in range(10):
                        step()
                        seen.append([ops.convert_to_numpy(v) for v in variables])
                    self.assertTrue(optimizer.frozen)
                    ends.append(seen)
                with self.subTest(name, memory=memory):
                    for number, (plain, compiled) in enumerate(zip(*ends, strict=True), 1):
                        rounded = {} if number <= 3 else {"rtol": 1e-4, "atol": 1e-6}
                        check = (
                            np.testing.assert_allclose if rounded else np.testing.assert_array_equal
                        )
                        for one, other in zip(plain, compiled, strict=True):
                            check(other, one, **rounded)

    @unittest.skipUnless(ON_TENSORFLOW, "Keras compiles on the other backends")
    def test_later_compilation_in_fit(self):
        """Inside the conditions and loops of Keras: loss scaling, several steps in one call."""
        with mock.patch.object(graphs, "TRIED", 3), mock.patch.object(graphs, "LATE", 8):
            for scale in (False, True):
                optimizer = proxquant(pq.Binary(), jit_compile="auto", freeze_step=8)
                if scale:
                    optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
                model = cases.train(optimizer, epochs=3, steps_per_execution=4)
                with self.subTest(scale=scale):
                    self.assertTrue(cases.on_grid(cases.weights(model)["hidden/kernel"]))

    def test_fit_with_a_sparse_gradient(self):
        """The gradient of an embedding is no tensor on TensorFlow."""
        ends = []
        for jit_compile in (False, True):
            keras.utils.set_random_seed(0)
            model = keras.Sequential(
                [keras.Input((3,), dtype="int32"), layers.Embedding(40, 4), layers.Dense(2)]
            )
            model.compile(proxquant(pq.MultiBit(2), jit_compile=jit_compile), loss="mse")
            x = np.random.default_rng(0).integers(0, 40, (16, 3))
            model.fit(x, np.ones((16, 3, 2)), epochs=3, verbose=0)
            ends.append(model.get_weights())
        for plain, compiled in zip(*ends, strict=True):
            np.testing.assert_allclose(compiled, plain, rtol=1e-4, atol=1e-6)

    def test_missing_gradients_are_left_out(self):
        variables, gradients = made_up(SHAPES)
        before = ops.convert_to_numpy(variables[4])
        optimizer = proxquant()
        optimizer.build(variables)
        run_graph(optimizer, variables, [*gradients[:4], None], 1)
        np.testing.assert_array_equal(ops.convert_to_numpy(variables[4]), before)

    def test_loss_scaling_around_it(self):
        model = cases.make_model()
        optimizer = keras.optimizers.LossScaleOptimizer(proxquant(pq.Binary(), freeze_step=5))
        model = cases.train(optimizer, epochs=3)
        values = cases.weights(model)
        self.assertTrue(cases.on_grid(values["hidden/kernel"]))

    def test_bad_argument(self):
        with self.assertRaisesRegex(ValueError, "jit_compile.*Received.*'xla'"):
            proxquant(jit_compile="xla")


class BundlesTest(unittest.TestCase):
    def test_only_small_alike_kernels_are_joined(self):
        shapes = [(3, 3, 4, 8), (3, 3, 4, 16), (3, 3, 8, 8), (36, 2), (0, 3), (1024, 1024)]
        variables, _ = made_up(shapes)
        other = pq.Ternary(axis=0)
        pairs = [(v, pq.Ternary(axis=-1)) for v in variables] + [(variables[0], other)]
        sizes = [len(b.variables) for b in bundles.make_bundles(pairs)]
        self.assertEqual(sizes, [3, 1, 1, 1, 1])
        self.assertEqual(len(bundles.make_bundles([(v, pq.Binary()) for v in variables])), 6)

    def test_split_undoes_join(self):
        for axis in (None, -1, 0, (0, 3), (2, 1)):
            variables, _ = made_up([(2, 3, 4, 5)] * 3)
            (bundle,) = bundles.make_bundles([(v, pq.Ternary(axis=axis)) for v in variables])
            joined = bundle.join(variables)
            levels = [pq.Ternary(axis=axis).levels(v) for v in variables]
            with self.subTest(axis=axis):
                for part, variable in zip(bundle.split(joined), variables, strict=True):
                    np.testing.assert_array_equal(part, ops.convert_to_numpy(variable))
                kept = bundle.join_levels(levels)
                np.testing.assert_allclose(kept, bundle.quantizer.levels(joined), rtol=1e-6)
                for part, given in zip(bundle.split_levels(kept), levels, strict=True):
                    np.testing.assert_array_equal(part, given)
                sums = [float(ops.sum(v)) for v in variables]
                np.testing.assert_allclose(bundle.total(joined), sums, rtol=1e-4)
                numbered = joined * 0 + bundle.spread(ops.convert_to_tensor([1.0, 2.0, 3.0]))
                for number, part in enumerate(bundle.split(numbered), 1):
                    np.testing.assert_array_equal(part, number + ops.zeros((2, 3, 4, 5)))

    def test_groups_of_the_last_axis_are_columns(self):
        for shape, axis, expected in (
            ((3, 3, 4, 8), -1, (36, 8)),
            ((3, 3, 8, 1), 2, (9, 8)),  # depthwise
            ((3, 3, 4, 8), (2, 3), (9, 32)),
            ((4, 8), 0, (4, 8)),
            ((3, 4, 8), 1, (4, 24)),
            ((4, 8), None, (1, 32)),
            ((4, 1), -1, (1, 4)),
        ):
            (variable,), _ = made_up([shape])
            (bundle,) = bundles.make_bundles([(variable, pq.Ternary(axis=axis))])
            with self.subTest(shape=shape, axis=axis):
                self.assertEqual(tuple(bundle.join([variable]).shape), expected)

    def test_joined_weights_move_as_each_alone(self):
        """Against one optimizer for each kernel: nothing leaks from one kernel to another."""
        shapes = [(3, 3, 8, 8), (3, 3, 8, 8), (3, 3, 8, 8)]
        for name, quantizer in QUANTIZERS.items():
            together, gradients = made_up(shapes, dtype="float64")
            alone, _ = made_up(shapes, dtype="float64")
            run_graph(proxquant(quantizer, jit_compile=False), together, gradients, 3)
            for variable, gradient in zip(alone, gradients, strict=True):
                run_graph(proxquant(quantizer, jit_compile=False), [variable], [gradient], 3)
            with self.subTest(name):
                for one, other in zip(together, alone, strict=True):
                    one, other = ops.convert_to_numpy(one), ops.convert_to_numpy(other)
                    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


if __name__ == "__main__":
    unittest.main()
