"""One whole run, from images to a scored .tflite."""

import time

import keras

from tf_proxquant import plot
from tf_proxquant.training import deployment, distribution, images, phases, text
from tf_proxquant.training.text_settings import TextSettings
from tf_proxquant.training.workdir import Workdir


def run(settings):
    """Trains, freezes, exports and scores one model; writes everything to the workdir.

    Args:
      settings: a `Settings`.

    Returns: dict, the report: what `report.json` holds. Of several processes only the first
      one, the chief, exports and writes.
    Raises: ValueError: for data, checkpoints and folders that do not fit, before training.
    """
    started = time.perf_counter()
    deployment.check(settings)
    scope, processes = distribution.join(settings)
    if isinstance(settings, TextSettings):
        task = text.TextTask(settings)
    else:
        task = images.ImageTask(settings, processes=processes)
    workdir = Workdir.open(settings, is_chief=processes.is_chief)
    keras.utils.set_random_seed(settings.seed)
    report = {
        "dataset": task.name,
        "model": settings.model,
        "method": settings.method,
        "quantizer": settings.quantizer,
        "seed": settings.seed,
        "workdir": str(workdir.path),
    }
    with scope, workdir.given_up_if_nothing_began():
        model, measured = phases.full_precision(settings, task, workdir)
        report.update(measured)
        if settings.method != "full_precision":
            model, measured = phases.quantized(settings, task, workdir, model)
            report.update(measured)
    deployed = task.deployed(model)
    for name, saved in deployed.items():
        workdir.save_model(saved, f"{name}.keras")
    if processes.is_chief:
        workdir.write_names(*task.names)
        pictures = task.listing()
        if pictures:
            workdir.write_table("pictures.csv", pictures)
        report.update(deployment.export_and_score(settings, task, workdir, deployed))
        report.update(task.describe())
        plot.history(workdir.path)
        workdir.write_table("metrics.csv", workdir.read_lines("metrics.jsonl"))
    report["wall_seconds"] = round(time.perf_counter() - started, 1)
    workdir.write_json("report.json", report)
    return report
