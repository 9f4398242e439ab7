"""The demo page in a real browser: drawn on with mouse, finger and keys, and its scores checked.

    python -m tests.web.run

Takes a Chromium that is installed, or unpacks Debian's below `.browser` (290 MB); where there is
none, or npm cannot fetch LiteRT.js, one line says why and the exit status is 0. Pictures of the
page are left in `.web`.
"""

import hashlib
import pathlib
import re
import tempfile
import threading
import unittest

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from examples.web import demo
from tests.web import browser, contrast, drawings, scores

ROOT = pathlib.Path(__file__).parents[2]
WEB = ROOT / ".web"
# Points of strokes by digit, as shares of the paper's sides; not those of the page's own samples.
STROKES = {
    0: [[(52, 14), (34, 24), (29, 50), (35, 78), (50, 86), (66, 76), (71, 50), (66, 24), (52, 14)]],
    1: [[(40, 26), (52, 14), (52, 86)]],
    2: [[(30, 30), (38, 16), (56, 14), (68, 26), (64, 42), (46, 62), (30, 84), (72, 84)]],
    3: [[(32, 20), (50, 13), (66, 24), (60, 40), (46, 47), (62, 54), (70, 68), (56, 86), (30, 80)]],
    4: [[(58, 12), (28, 60), (76, 60)], [(62, 40), (60, 88)]],
    7: [[(26, 16), (74, 14), (56, 50), (46, 86)], [(38, 50), (68, 50)]],
}
# Sums of other orders: Wasm's kernels and the interpreter's.
TOLERANCE = 2e-5
ROUNDED = ("dynamic", "static")  # activations of 8 bits
LOGGED = ("INFO: ", "WARNING: ")  # by LiteRT, as errors


class PageTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        site = demo.build(WEB)
        cls.server = demo.listen(site, "127.0.0.1", 0)
        threading.Thread(target=cls.server.serve_forever, daemon=True).start()
        cls.addClassCleanup(cls.server.server_close)
        cls.addClassCleanup(cls.server.shutdown)
        cls.address = f"http://127.0.0.1:{cls.server.server_port}/"
        cls.tflite = (site / "model.tflite").read_bytes()
        cls.score = staticmethod(scores.scorer(cls.tflite))
        try:
            cls.browser = browser.Browser(*browser.find(ROOT / ".browser"))
        except browser.NoBrowserError as error:
            raise unittest.SkipTest(str(error)) from None
        cls.addClassCleanup(cls.browser.close)

    def open(self, width=1100, height=900, **screen):
        self.browser.errors.clear()
        self.browser.requests.clear()
        self.browser.resize(width, height, **screen)
        self.browser.open(self.address)
        self.browser.evaluate("demo.ready")
        self.assertIsNone(self.browser.evaluate("demo.failed && String(demo.failed)"))

    def tearDown(self):
        self.assertEqual([e for e in self.browser.errors if not e.startswith(LOGGED)], [])

    def places(self, stroke, scale=1.0, shift=0.0):
        """Points of the window for those of a stroke."""
        x, y, size = self.browser.evaluate(
            "(() => { document.getElementById('paper').scrollIntoView({block: 'center'});"
            "const b = document.getElementById('paper').getBoundingClientRect();"
            "return [b.x, b.y, b.width]; })()"
        )
        return [[x + size * (shift + scale * a / 100), y + size * (shift + scale * b / 100)]
                for a, b in stroke]  # fmt: skip

    def draw(self, strokes, **options):
        self.browser.evaluate("demo.paper.clear()")
        for stroke in strokes:
            first, *rest = self.places(stroke, **options)
            self.browser.mouse("mousePressed", *first)
            for place in rest:
                self.browser.mouse("mouseMoved", *place)
            self.browser.mouse("mouseReleased", *place)

    def shown(self):
        """Returns (input, scores, the answer in words) as the page shows them."""
        self.browser.evaluate("demo.settled()")
        read = "JSON.parse(document.getElementById('scores').dataset.%s)"
        image = np.array(self.browser.evaluate(read % "input"), np.float32)
        return image, self.browser.evaluate(read % "scores"), self.text("says")

    def text(self, name):
        return self.browser.evaluate(f"document.getElementById('{name}').textContent")

    def check_scores(self, digit, least=0.6):
        image, shown, says = self.shown()
        np.testing.assert_allclose(shown, self.score(image), rtol=0, atol=TOLERANCE)
        self.assertEqual(np.argmax(shown), digit, shown)
        self.assertGreaterEqual(shown[digit], least)
        self.assertEqual(says, f"a {digit}, {round(100 * shown[digit])}%")
        shares = self.browser.evaluate(
            "[...document.querySelectorAll('#scores li')].map((row) => row.textContent)"
        )
        self.assertEqual(len(shares), 10)
        self.assertEqual(shares[digit][0], str(digit))
        self.assertAlmostEqual(float(shares[digit][1:-1]), 100 * shown[digit], delta=0.06)

    def take_picture(self, name, width):
        height = self.browser.evaluate("document.documentElement.scrollHeight")
        whole = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        self.browser.screenshot(WEB / name, clip=whole)

    def test_strokes_of_the_mouse_get_the_scores_of_the_interpreter_and_are_read(self):
        self.browser.prefer(prefers_reduced_motion="reduce")  # the bars stand still for the picture
        self.addCleanup(self.browser.prefer)
        self.open(900)
        for digit, strokes in STROKES.items():
            with self.subTest(digit=digit):
                self.draw(strokes)
                self.check_scores(digit)
        self.take_picture("page.png", 900)

    def test_a_small_digit_in_a_corner_is_seen_as_a_large_one(self):
        self.open()
        self.draw(STROKES[3])
        large, *_ = self.shown()
        self.draw(STROKES[3], scale=0.4, shift=0.55)
        small, *_ = self.shown()
        self.assertLess(np.abs(small - large).sum(), 0.1 * large.sum())
        self.check_scores(3)

    def test_the_input_is_that_of_the_data_set(self):
        self.open()
        self.draw(STROKES[0])
        image, *_ = self.shown()
        image = image.reshape(8, 8)
        self.assertTrue((image == np.round(image)).all())
        self.assertEqual((image.min(), image.max() <= 16), (0, True))
        self.assertGreater(min(image[0].sum(), image[-1].sum()), 0)  # it fills the height
        self.assertAlmostEqual(image.sum(), 310, delta=15)

    def test_a_finger_draws_on_a_narrow_screen_which_scrolls_in_one_direction_only(self):
        self.open(320, 568, density=2, mobile=True)
        self.assertEqual(self.browser.evaluate("document.documentElement.scrollWidth"), 320)
        (stroke,) = STROKES[1]
        places = self.places(stroke)
        before = self.browser.evaluate("scrollY")
        self.browser.touch("touchStart", places[0])
        for place in places:
            self.browser.touch("touchMove", place)
        self.browser.touch("touchEnd")
        self.check_scores(1)
        self.assertEqual(self.browser.evaluate("scrollY"), before)
        for index in range(self.browser.evaluate("document.getElementById('layer').length")):
            self.choose_layer(index)
            self.assertEqual(self.browser.evaluate("document.documentElement.scrollWidth"), 320)
        self.take_picture("page-320.png", 320)

    def test_the_paper_fits_a_low_screen(self):
        self.open(568, 320, mobile=True)
        self.places(STROKES[1][0])
        box = "document.getElementById('paper').getBoundingClientRect()"
        self.assertGreaterEqual(self.browser.evaluate(f"{box}.top"), 0)
        self.assertLessEqual(self.browser.evaluate(f"{box}.bottom"), 320)

    def test_a_keyboard_alone_draws_takes_back_and_clears(self):
        self.open()
        press = self.browser.press
        press("Tab")
        self.assertEqual(self.browser.evaluate("document.activeElement.id"), "paper")
        press("ArrowLeft", 4)
        press(" ")
        press("ArrowRight", 9)
        press("End", 3)  # slantwise
        self.browser.hold("ArrowDown")
        self.browser.hold("ArrowLeft")  # and so are two arrows
        self.browser.let_go("ArrowLeft")
        self.browser.let_go("ArrowDown")
        press("ArrowDown", 9)
        press(" ")
        press("ArrowUp", 7)  # the pen is up: nothing is drawn
        press("ArrowLeft", 4)
        self.assertEqual(self.browser.evaluate("demo.paper.strokes.length"), 1)
        press(" ")
        press("ArrowRight", 8)
        press(" ")
        self.assertEqual(self.browser.evaluate("demo.paper.strokes.length"), 2)
        self.check_scores(7)
        press("Backspace")
        self.assertEqual(self.browser.evaluate("demo.paper.strokes.length"), 1)
        self.assertEqual(self.text("live"), "Last stroke taken back")
        press("Delete")
        self.assertEqual(self.shown()[1:], (None, "nothing yet"))
        press("Tab")
        self.assertEqual(self.browser.evaluate("document.activeElement.id"), "example")

    def test_what_the_network_says_is_told_once_the_drawing_rests(self):
        self.open()
        self.draw(STROKES[4])
        self.assertEqual(self.text("live"), "")
        self.browser.wait_for("document.getElementById('live').textContent !== ''", 5)
        self.assertEqual(self.text("live"), self.text("says"))

    def test_the_samples_of_the_page_are_read_and_not_animated_where_that_is_unwanted(self):
        self.open()
        self.browser.prefer(prefers_reduced_motion="reduce")
        self.addCleanup(self.browser.prefer)
        for digit in (7, 0, 3, 6, 9, 2, 5, 8, 1, 4):
            self.browser.evaluate("document.getElementById('example').click()")
            self.check_scores(digit, least=0.9)

    def test_the_archive_arrives_as_the_file_and_nothing_comes_from_elsewhere(self):
        self.open()
        digest = self.browser.evaluate(
            "crypto.subtle.digest('SHA-256', demo.model.file).then((d) => "
            "[...new Uint8Array(d)].map((b) => b.toString(16).padStart(2, '0')).join(''))"
        )
        self.assertEqual(digest, hashlib.sha256(self.tflite).hexdigest())
        self.assertGreater(len(self.browser.requests), 10)
        self.assertEqual([r for r in self.browser.requests if not r.startswith(self.address)], [])

    def choose_layer(self, index):
        self.browser.evaluate(
            f"(() => {{ const s = document.getElementById('layer'); s.selectedIndex = {index};"
            "s.dispatchEvent(new Event('change')); })()"
        )
        return self.text("layer-says")

    def test_the_weights_are_those_that_the_interpreter_holds(self):
        self.open()
        weights = self.browser.evaluate(
            "import('./tflite.js').then(({readWeights}) => readWeights(demo.model.file)"
            ".map((w) => ({...w, values: [...w.values]})))"
        )
        interpreter = Interpreter(model_content=self.tflite)
        interpreter.allocate_tensors()
        details = {d["name"]: d for d in interpreter.get_tensor_details()}
        self.assertEqual(len(weights), 10)
        for index, weight in enumerate(weights):
            detail = details[weight["name"]]
            self.assertEqual(weight["shape"], detail["shape"].tolist())
            stored = interpreter.get_tensor(detail["index"])
            scales = detail["quantization_parameters"]["scales"]
            if stored.dtype == np.int8:
                stored = scales.reshape(-1, *[1] * (stored.ndim - 1)) * stored.astype(np.float32)
                said = self.choose_layer(index)
                self.assertIn(f"Each of the {len(stored)} channels has two values", said)
            np.testing.assert_array_equal(np.float32(weight["values"]), stored.reshape(-1))

    def test_everything_that_takes_the_focus_has_a_name(self):
        self.open()
        nodes = self.browser.send("Accessibility.getFullAXTree")["nodes"]
        focusable = [node for node in nodes if takes_focus(node)]
        self.assertGreaterEqual(len(focusable), 4)
        for node in focusable:
            self.assertTrue(node["name"]["value"], node)

    def test_texts_and_shapes_stand_out_in_light_and_in_dark(self):
        self.addCleanup(self.browser.prefer)
        for scheme in ("light", "dark"):
            self.browser.prefer(prefers_color_scheme=scheme)
            self.open()
            self.draw(STROKES[2])
            ratios = contrast.measure(self.browser)
            self.assertGreater(len(ratios), 30)
            self.assertEqual({t: r for t, r in ratios.items() if r < 4.5}, {}, scheme)
            self.assertGreater(min(contrast.measure_shapes(self.browser).values()), 3, scheme)

    def test_the_runtime_for_browsers_without_relaxed_simd_gives_the_same_scores(self):
        self.open()
        self.draw(STROKES[3])
        _, shown, _ = self.shown()
        older = self.browser.evaluate(
            "Promise.all([import('@litertjs/core'), import('./model.js')])"
            ".then(async ([{unloadLiteRt}, {Model}]) => { unloadLiteRt();"
            "const runtime = './litert/wasm/litert_wasm_compat_internal.js';"
            "const model = await Model.load('model.tflite.pqz', runtime);"
            "return Array.from(await model.run(demo.input)); })"
        )
        np.testing.assert_allclose(older, shown, rtol=0, atol=TOLERANCE)
        self.assertTrue(self.browser.requests[-1].endswith("compat_internal.wasm"))

    def test_every_profile_gives_what_the_interpreter_gives(self):
        from tests.web import latency  # and with it TensorFlow, which nothing else here needs

        self.open()
        with tempfile.TemporaryDirectory(dir=WEB / "site") as name:
            files, data = latency.export(8, (8, 8, 1), pathlib.Path(name))
            address = f"{self.address}{pathlib.Path(name).name}/"
            found = latency.measure(self.browser, address, files, data, rounds=1)
        self.assertEqual(list(found), ["float", *latency.PROFILES])
        for profile, (*_, difference) in found.items():
            self.assertLess(difference, 5e-2 if profile in ROUNDED else TOLERANCE, profile)

    def test_the_page_of_the_documentation_runs(self):
        text = (ROOT / "docs" / "browser.md").read_text()
        page = re.search(r"```html\n(.*?)```", text, re.DOTALL).group(1)
        with tempfile.TemporaryDirectory(dir=WEB / "site") as name:
            folder = pathlib.Path(name)
            (folder / "index.html").write_text(page)
            (folder / "model.tflite").write_bytes(self.tflite)
            (folder / "node_modules").symlink_to(WEB / "npm" / "node_modules")
            self.browser.errors.clear()
            self.browser.open(f"{self.address}{folder.name}/")
            self.browser.wait_for("/[0-9]/.test(document.body.lastChild.textContent)", 30)
            shown = self.browser.evaluate("document.body.lastChild.textContent")
        shown = np.array(shown.split(), np.float32)
        np.testing.assert_allclose(shown, self.score(np.ones(64)), rtol=0, atol=TOLERANCE)

    def test_most_drawings_of_a_program_are_read(self):
        self.open()
        shares = drawings.read(self.browser, self.score)
        self.assertGreater(np.mean(list(shares.values())), 0.85, shares)

    def test_a_missing_model_is_told(self):
        self.browser.send("Network.setBlockedURLs", urls=["*/model.tflite.pqz"])
        self.addCleanup(self.browser.send, "Network.setBlockedURLs", urls=[])
        self.browser.open(self.address)
        self.browser.evaluate("demo.ready")
        self.assertIn("could not be loaded", self.text("status"))
        self.assertTrue(self.browser.errors)
        self.browser.errors.clear()


def takes_focus(node):
    """Whether a node of the accessibility tree can be reached; the document itself apart."""
    properties = {p["name"]: p["value"].get("value") for p in node.get("properties", ())}
    return bool(properties.get("focusable")) and node["role"]["value"] != "RootWebArea"


def main():
    try:
        browser.find(ROOT / ".browser")
        demo.fetch_runtime(WEB / "npm")
    except (browser.NoBrowserError, SystemExit) as reason:
        print(f"The page was not tried in a browser: {reason}")
        return
    unittest.main(verbosity=2)


if __name__ == "__main__":
    main()
