"""Pictures of weights and of runs."""

import json
import pathlib
import tempfile
import unittest

import keras
import numpy as np
from keras import layers
from matplotlib import pyplot

import tf_proxquant as pq
from tf_proxquant.plot import drawing


def make_model():
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((8,)), layers.Dense(6), layers.Dense(4)])


class WeightsTest(unittest.TestCase):
    def test_it_draws_each_selected_variable_with_its_levels(self):
        model = make_model()
        model.compile(pq.ProxQuant("adam", pq.Ternary(), 1.0, select="dense_?[0-9]*/kernel"), "mse")
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "weights.png")
            figure = pq.plot.weights(model, path)
            self.assertEqual(path.read_bytes()[:4], b"\x89PNG")
            self.assertEqual([p.name for p in pathlib.Path(folder).iterdir()], ["weights.png"])
        first = figure.axes[0]
        kernel = keras.ops.convert_to_numpy(model.layers[0].kernel)
        lines = [line.get_xdata()[0] for line in first.lines]
        levels = keras.ops.convert_to_numpy(pq.Ternary().levels(kernel))
        np.testing.assert_allclose(lines, levels, rtol=1e-6)
        self.assertEqual(sum(bar.get_height() for bar in first.patches), kernel.size)

    def test_channels_of_different_sizes_share_the_lines_of_their_levels(self):
        model = make_model()
        kernel = model.layers[0].kernel
        kernel.assign(kernel * np.float32([1, 10, 100, 0.1, 3, 7]))
        model.compile(pq.ProxQuant("adam", pq.Binary("mean", axis=-1), 1.0), "mse")
        figure = pq.plot.weights(model)
        lines = [line.get_xdata()[0] for line in figure.axes[0].lines]
        self.assertEqual(lines, [-1, 1])
        model.optimizer.snap(warn=False)
        bars = pq.plot.weights(model).axes[0].patches
        heights = [bar.get_height() for bar in bars if bar.get_height()]
        self.assertEqual((len(heights), sum(heights)), (2, 48))

    def test_without_a_quantizing_optimizer_it_draws_the_kernels_alone(self):
        figure = pq.plot.weights(make_model(), max_panels=1)
        self.assertEqual((len(figure.axes), len(figure.axes[0].lines)), (1, 0))

    def test_at_least_one_panel_is_drawn(self):
        for count in (0, -1, 1.5):
            with self.assertRaisesRegex(ValueError, "max_panels` must be an integer of at least 1"):
                pq.plot.weights(make_model(), max_panels=count)

    def test_a_notebook_shows_the_figure_and_pyplot_keeps_none_open(self):
        figure = pq.plot.weights(make_model())
        self.assertEqual(figure._repr_png_()[:4], b"\x89PNG")
        self.assertEqual(pyplot.get_fignums(), [])


def logs(num_epochs, **others):
    """Columns of a quantized training whose weights are frozen for the last epoch."""
    return {
        "accuracy": [0.1 * i for i in range(num_epochs)],
        "loss": [1.0] * num_epochs,
        "on_grid": [0.0] * (num_epochs - 1) + [1.0],
        "sign_change": [0.25] * num_epochs,
        "frozen": [0.0] * (num_epochs - 1) + [1.0],
        **others,
    }


def lines(axes):
    """{label: (epochs, values)} of what a legend names."""
    found = {line.get_label(): line for line in axes.lines}
    return {
        label: (list(line.get_xdata()), list(line.get_ydata()))
        for label, line in found.items()
        if not label.startswith("_")
    }


def texts(axes):
    return {text.get_text().strip(): text.get_position()[0] for text in axes.texts}


class HistoryTest(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

    def write_run(self, warm=1, pulled=3):
        rows = [
            {"phase": "full_precision", "epoch": i, "accuracy": 0.1, "val_accuracy": 0.7}
            for i in range(warm)
        ]
        for i in range(pulled):
            row = {key: column[i] for key, column in logs(pulled).items()}
            rows.append({"phase": "quantized", "epoch": i, **row, "val_accuracy": 0.8})
            rows[-1]["quantized_accuracy"] = 0.8
        counted = [{"phase": "quantized", "epoch": i - 1, "low": -1.5, "high": 1.5,
                    "counts": [i, 4, i]} for i in range(pulled + 1)]  # fmt: skip
        for name, kept in (("metrics.jsonl", rows), ("histograms.jsonl", counted)):
            (self.folder / name).write_text("".join(json.dumps(row) + "\n" for row in kept))

    def test_it_takes_what_fit_returns_and_its_dict(self):
        model = make_model()
        model.compile(pq.ProxQuant("adam", pq.Binary(), freeze_step=4), "mse", metrics=["mae"])
        history = model.fit(
            np.ones((8, 8)), np.ones((8, 4)), batch_size=4, epochs=3, verbose=0,
            validation_split=0.5, callbacks=[pq.callbacks.QuantizationMonitor()],
        )  # fmt: skip
        self.assertEqual(history.history["frozen"], [0, 0, 0])
        history.history["frozen"] = [0.0, 1.0, 1.0]
        for run in (history, history.history):
            score, grid = pq.plot.history(run).axes
            epochs, values = lines(score)["in training"]
            self.assertEqual((epochs, values), ([1, 2, 3], history.history["val_mae"]))
            self.assertEqual(lines(grid)["on the grid"][1], history.history["on_grid"])
            self.assertEqual(texts(score), {"freeze": 2})
        self.assertEqual(pyplot.get_fignums(), [])

    def test_a_later_fit_goes_on_counting_where_it_began(self):
        history = keras.callbacks.History()
        history.epoch, history.history = [5, 6], logs(2)
        score = pq.plot.history(history).axes[0]
        self.assertEqual(lines(score)["in training"][0], [6, 7])

    def test_without_a_monitor_there_is_one_panel(self):
        (axes,) = pq.plot.history({"loss": [2.0, 1.0], "val_loss": [3.0, 2.0]}).axes
        self.assertEqual(lines(axes), {"full precision": ([1, 2], [3.0, 2.0])})
        self.assertEqual((axes.get_ylabel(), texts(axes)), ("validation loss", {}))

    def test_a_path_is_all_that_it_writes(self):
        self.write_run()
        path = self.folder / "elsewhere" / "run.svg"
        path.parent.mkdir()
        for run in (self.folder, logs(2)):
            pq.plot.history(run, path)
            self.assertIn("<svg", path.read_text()[:500])
            path.unlink()
        found = {p.name for p in self.folder.iterdir()}
        self.assertEqual(found, {"metrics.jsonl", "histograms.jsonl", "elsewhere"})

    def test_a_workdir_gets_its_two_pictures(self):
        self.write_run()
        pq.plot.history(str(self.folder))
        for name in ("curves.png", "weights.png"):
            self.assertEqual((self.folder / name).read_bytes()[:4], b"\x89PNG")

    def test_a_warm_start_of_one_epoch_is_seen_and_lines_do_not_hide_each_other(self):
        self.write_run(warm=1, pulled=3)
        score = pq.plot.history(self.folder).axes[0]
        self.assertEqual(lines(score)["full precision"], ([1], [0.7]))
        warm, wide, thin = score.lines[:3]
        self.assertEqual(warm.get_marker(), "o")
        self.assertEqual(wide.get_xdata()[0], 1)
        self.assertEqual(list(wide.get_ydata()[1:]), list(thin.get_ydata()))
        self.assertGreater(wide.get_linewidth(), 2 * thin.get_linewidth())
        self.assertEqual(texts(score), {"warm start": 0.5, "freeze": 4})

    def test_the_axis_has_whole_epochs_only(self):
        for num_epochs in (1, 2, 3, 50):
            figure = pq.plot.history(logs(num_epochs))
            figure.draw_without_rendering()
            axes = figure.axes[-1]
            low, high = axes.get_xlim()
            ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
            self.assertTrue(ticks, num_epochs)
            self.assertEqual([tick % 1 for tick in ticks], [0] * len(ticks), num_epochs)

    def test_the_title_says_where_it_ended(self):
        self.write_run()
        title = pq.plot.history(self.folder).axes[0].get_title(loc="left")
        self.assertEqual(title, "accuracy: full precision 0.7, quantized 0.8")

    def test_nothing_to_draw_is_an_error(self):
        for run in (self.folder, {}, {"loss": []}, keras.callbacks.History(), [1.0], {"a": 3}):
            with self.assertRaisesRegex(ValueError, "Pass"):
                pq.plot.history(run)


class ArrivalTest(unittest.TestCase):
    def test_it_shows_the_start_the_way_and_the_end(self):
        rows = [
            {"epoch": i - 1, "low": -1.5, "high": 1.5, "counts": [min(i, 7), 1], "on_grid": i / 9}
            for i in range(10)
        ]
        figure = drawing.arrival([{**rows[0], "on_grid": None}, *rows[1:]])
        labels = [axes.get_ylabel() for axes in figure.axes]
        self.assertEqual((labels[0], labels[-1], len(labels)), ("start", "epoch 9", 6))
        self.assertEqual(list(texts(figure.axes[-1])), ["100 % on the grid"])
        self.assertEqual(texts(figure.axes[0]), {})


if __name__ == "__main__":
    unittest.main()
