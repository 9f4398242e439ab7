"""What a person reads at the end of a run."""

import dataclasses
import pathlib
import shlex

from tf_proxquant.training.image_settings import ImageSettings
from tf_proxquant.training.settings import MACHINES

# Settings that a run from the full precision of another one does not take over.
_RUN_ONLY = (
    "workdir", "resume", "init_from", "weights", "head_epochs", "full_precision_epochs",
)  # fmt: skip
_DECIDING = ("quantizer", "bits", "strength", "regularizer", "method", "memory")


def summary(report, settings):
    """The results in some lines: scores, sizes, how weights are stored, what to do next.

    Args:
      report: dict, as `run` returns it.
      settings: of the run.
    """
    return "\n".join(
        [
            "",
            *_scores(report),
            *_stored(report),
            *_edge("input", report),
            *_edge("output", report),
            f"all files: {report['workdir']}",
            *_next(report, settings),
            "",
        ]
    )


def interrupted(settings):
    """The line that says how to go on with a run that was interrupted."""
    workdir = pathlib.Path(settings.workdir)
    if not (workdir / "settings.json").exists():
        return "Interrupted before anything was written."
    return f"Interrupted. To go on: python train.py --resume --workdir={shlex.quote(str(workdir))}"


def _scores(report):
    metric = "accuracy" if "full_precision_accuracy" in report else "perplexity"
    float_bytes = report.get("float_tflite_bytes")
    rows = [
        ("full precision", report.get(f"full_precision_{metric}"), float_bytes, "as floats"),
        ("quantized", report.get(f"quantized_{metric}"), None, ""),
        ("model.tflite", report.get(f"tflite_{metric}"), report.get("tflite_bytes"), None),
    ]
    yield f"{'':16}{metric:>12}{'bytes':>14}"
    for name, score, size, remark in rows:
        if score is None:
            continue
        shown = f"{100 * score:.2f} %" if metric == "accuracy" else f"{score:.2f}"
        if remark is None and size and float_bytes:
            remark = f"{100 * size / float_bytes:.0f} % of the float file"
        size = f"{size:,}" if size else ""
        yield f"{name:16}{shown:>12}{size:>14}  {remark or ''}".rstrip()


def _stored(report):
    """What was trained against what is stored."""
    for kind in report.get("stored", ()):
        levels = _levels(kind)
        noun = "tensor" if kind["tensors"] == 1 else "tensors"
        size = f"{kind['bytes']:,} bytes"
        yield f"weights: {kind['tensors']} {noun} {levels}, stored as {kind['form']}, {size}"
    for row in report.get("stays_float", ()):
        yield f"stored as floats although it has few levels: {row['name']} ({row['reason']})"


def _levels(kind):
    if kind["levels"]:
        return f"of {kind['levels']} levels"
    return "in full precision" if kind["form"].startswith("float") else "of up to 256 levels"


def _edge(which, report):
    said = report.get(which)
    if not said:
        return
    sizes = " x ".join("any" if size is None else str(size) for size in said["shape"])
    parts = [f"{said['dtype']} {sizes}"]
    if "axes" in said:
        parts[0] += f" ({said['axes']})"
    if "channels" in said:
        parts.append(said["channels"])
    if "range" in said:
        parts.append("values from {:g} to {:g}".format(*said["range"]))
    if "resize" in said:
        parts.append(f"resized: {said['resize']}")
    if "meaning" in said:
        parts.append(said["meaning"])
    yield f"{which}: {', '.join(parts)}"


def _next(report, settings):
    """The commands that go on from here."""
    start = shlex.quote(str(pathlib.Path(report["workdir"], "full_precision.keras")))
    flags = " ".join(_flags(settings))
    yield f"again from full precision: python train.py --init_from={start} {flags}".rstrip()
    # The example feeds pixels from 0 to 255.
    takes_bytes = report.get("input", {}).get("range") == [0, 255]
    if report.get("tflite_path") and takes_bytes and "images" in report:
        path = shlex.quote(report["tflite_path"])
        yield f"classify pictures: python examples/classify.py PICTURE... --model={path}"


def _flags(settings):
    """The flags that make the settings of a run again."""
    fields = [f for f in dataclasses.fields(settings) if f.name not in _RUN_ONLY]
    # One after the other, for many defaults depend on what is given; what most depend on first.
    order = [*_DECIDING, *(f.name for f in fields if f.name not in _DECIDING)]
    together = [f.name for f in fields if f.metadata["group"] == MACHINES]
    given = {n: getattr(settings, n) for n in ("model", "workdir", "batch_size", *together)}
    while True:
        usual = type(settings)(**given)
        missing = [name for name in order if _differ(name, usual, settings)]
        if not missing:
            break
        given[missing[0]] = getattr(settings, missing[0])
    for field in fields:
        name, value = field.name, given.get(field.name)
        usual = ImageSettings.model if name == "model" else field.default
        if value is None or value == usual:
            continue
        if isinstance(value, bool):
            yield f"--{name}" if value else f"--no{name}"
        else:
            yield f"--{name}={shlex.quote(str(value))}"


def _differ(name, usual, settings):
    value = getattr(settings, name)
    return value is not None and value != getattr(usual, name)
