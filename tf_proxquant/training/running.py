"""One whole run, from images to a scored .tflite."""

import time

import keras

from tf_proxquant import datasets, plot
from tf_proxquant.training import deployment, phases
from tf_proxquant.training.workdir import Workdir


def run(settings):
    """Trains, freezes, exports and scores one model; writes everything to the workdir.

    Args:
      settings: a `Settings`.

    Returns: dict, the report: what `report.json` holds.
    Raises: ValueError: for data, checkpoints and folders that do not fit, before training.
    """
    started = time.perf_counter()
    deployment.check(settings)
    scope = phases.strategy_scope(settings.distribution)
    data = datasets.load(settings.dataset, settings.data_dir, settings.download)
    workdir = Workdir.open(settings)
    train, test = phases.make_batches(settings, data)
    keras.utils.set_random_seed(settings.seed)
    report = {
        "dataset": data.name,
        "model": settings.model,
        "method": settings.method,
        "quantizer": settings.quantizer,
        "seed": settings.seed,
        "workdir": str(workdir.path),
    }
    with scope:
        model, report["full_precision_accuracy"] = phases.full_precision(
            settings, data, train, test, workdir
        )
        if settings.method != "full_precision":
            model, measured = phases.quantized(settings, train, test, workdir, model)
            report.update(measured)
    workdir.save_model(model, "model.keras")
    report.update(deployment.export_and_score(settings, train, test, workdir))
    plot.history(workdir.path)
    report["wall_seconds"] = round(time.perf_counter() - started, 1)
    workdir.write_json("report.json", report)
    return report
