"""The public names that users and outside code rely on."""

import importlib.util
import inspect
import pathlib
import unittest
from typing import get_args

import keras

import tf_proxquant as pq
from tf_proxquant.litert import plan
from tf_proxquant.typing import Profile

ROOT = pathlib.Path(__file__).parents[1]


def load_page_maker():
    spec = importlib.util.spec_from_file_location("api", ROOT / "docs" / "api.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class ReferencePageTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.maker = load_page_maker()

    def public(self):
        for module in self.maker.modules():
            for name in self.maker.public_names(module):
                if callable(getattr(module, name)):
                    yield f"{module.__name__}.{name}", getattr(module, name)

    def test_every_public_name_is_on_the_page_with_its_docstring(self):
        page = self.maker.page()
        for path, thing in self.public():
            with self.subTest(path):
                self.assertIn(f"### `{path.rsplit('.', 1)[-1]}", page)
                self.assertIn(inspect.getdoc(thing), page)

    def test_every_public_signature_is_annotated_and_every_method_documented(self):
        for path, thing in self.public():
            functions = {path: thing}
            if inspect.isclass(thing):
                functions = {f"{path}.{name}": f for name, f in self.maker.members(thing)}
                if "__init__" in vars(thing) and thing.__init__.__module__ != "typing":
                    functions[f"{path}.__init__"] = thing.__init__
            for name, function in functions.items():
                with self.subTest(name):
                    signature = inspect.signature(function)
                    for parameter in signature.parameters.values():
                        is_bound = parameter.name in ("self", "cls", "_cls")
                        self.assertTrue(is_bound or parameter.annotation is not parameter.empty)
                    if not name.endswith("__init__"):
                        self.assertIsNot(signature.return_annotation, signature.empty)
                        self.assertTrue(inspect.getdoc(function))

    def test_the_package_says_that_it_is_typed(self):
        self.assertTrue((ROOT / "tf_proxquant" / "py.typed").exists())

    def test_profiles_have_their_names_in_types_too(self):
        self.assertEqual(get_args(Profile), tuple(plan.PROFILES))


class PublicNamesTest(unittest.TestCase):
    def test_every_public_name_exists_and_is_documented(self):
        for name in pq.__all__:
            with self.subTest(name):
                self.assertTrue((getattr(pq, name).__doc__ or "").strip())

    def test_signatures_keep_their_order(self):
        expected = {
            pq.Binary: "scale axis",
            pq.Ternary: "threshold symmetric optimal axis",
            pq.MultiBit: "bits rounds optimal axis",
            pq.Uniform: "bits axis",
            pq.ProxQuant: "inner_optimizer quantizer strength prox memory select clip",
            pq.ProxConnect: "inner_optimizer quantizer strength prox memory select clip",
            pq.schedules.Linear: "rate every",
            pq.schedules.Sigmoid: "start end steepness",
            pq.select_kernels: "model skip_first skip_last skip",
            pq.prox.prox_l1: "weights quantized tau",
            pq.prox.prox_l2: "weights quantized tau",
            pq.prox.relax: "weights quantized theta",
            pq.prox.prox_piecewise_affine: "weights levels inverse_slope",
            pq.metrics.sign_changes: "before after",
            pq.metrics.quantization_error: "weights quantized",
            pq.export: "model_or_path path profile verify archive",
            pq.models.resnet: "depth input_shape num_classes",
            pq.models.lstm_language_model: "vocabulary embedding hidden layers tied dropout",
        }
        for thing, names in expected.items():
            with self.subTest(thing.__name__):
                found = list(inspect.signature(thing).parameters)
                self.assertEqual(found[: len(names.split())], names.split())

    def test_defaults_are_the_papers(self):
        self.assertEqual((pq.Binary.regularizer, pq.Ternary.regularizer), ("l1", "l2"))
        self.assertEqual(pq.Ternary().threshold, 0.7)
        optimizer = pq.ProxQuant("adam", pq.Binary(), 1.0)
        self.assertEqual((optimizer.prox, optimizer.memory), (None, 0.0))
        self.assertEqual(pq.ProxConnect("adam", pq.Binary()).memory, 1.0)
        self.assertEqual(optimizer.name, "prox_quant")

    def test_an_unknown_name_is_an_attribute_error(self):
        with self.assertRaises(AttributeError):
            pq.nonsense  # noqa: B018

    def test_serializable_classes_are_registered_in_the_package(self):
        for thing in (pq.Binary, pq.MultiBit, pq.ProxQuant, pq.ProxConnect, pq.schedules.Linear):
            name = keras.saving.get_registered_name(thing)
            self.assertEqual(name, f"tf_proxquant>{thing.__name__}")
