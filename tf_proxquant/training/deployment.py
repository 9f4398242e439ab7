"""Export of the trained model, and its score in the LiteRT interpreter."""

import importlib.util
import json
import os
import subprocess
import sys

import keras

_FEW = 16  # levels that a summary counts


def check(settings):
    """Raises ValueError if the export that the settings ask for cannot be made here."""
    if settings.export_profile == "static" and keras.backend.backend() != "tensorflow":
        raise ValueError(
            "--export_profile=static needs the TensorFlow backend, for its calibration. Received: "
            f"KERAS_BACKEND={keras.backend.backend()}."
        )


def export_and_score(settings, task, workdir, names):
    """Exports NAME.keras to NAME.tflite for each name, and scores the files on the test data.

    Where Keras runs on another backend the export runs in a process of its own with
    TensorFlow; where TensorFlow is not installed it is left out, and the figures are None.

    Returns: dict with tflite_path, tflite_bytes, float_tflite_bytes and the score, tflite_accuracy
      or tflite_perplexity, of "model"; of other names with the name in front.
    """
    report = {}
    for name in names:
        prefix = "" if name == "model" else f"{name}_"
        score = f"{prefix}tflite_{task.metric}"
        keys = ("tflite_path", "tflite_bytes", "float_tflite_bytes")
        report.update(dict.fromkeys([*(prefix + key for key in keys), score]))
        if importlib.util.find_spec("tensorflow") is None:
            print("No export: TensorFlow is not installed.", file=sys.stderr)
            continue
        source, target = workdir / f"{name}.keras", workdir / f"{name}.tflite"
        print(f"exporting {target}", flush=True)
        exported = _export(settings, task, source, target)
        workdir.write_json(f"{prefix}export.json", exported)
        report[score] = task.score_file(target)
        if not prefix:
            report.update(_stored(exported["rows"]))
        figures = str(target), target.stat().st_size, exported["float_bytes"]
        report.update({prefix + key: value for key, value in zip(keys, figures, strict=True)})
    return report


def _stored(rows):
    """How the weights are stored, by levels and form, and which should be smaller than they are."""
    from tf_proxquant.litert import TensorRow

    kinds, left = {}, []
    for row in rows:
        # Of 8 bits some channels use more of the levels than others.
        levels = row["num_levels"] if (row["num_levels"] or 0) <= _FEW else None
        kind = kinds.setdefault((levels, row["form"]), {"tensors": 0, "bytes": 0})
        kind["tensors"] += 1
        kind["bytes"] += row["bytes_after"]
        if TensorRow(**row).is_left_float:
            left.append({"name": row["name"], "reason": row["reason"]})
    stored = [{"levels": levels, "form": form, **kind} for (levels, form), kind in kinds.items()]
    return {"stored": stored, "stays_float": left}


def _export(settings, task, source, target):
    """Exports one model; returns the report of the export as a dict."""
    profile = settings.export_profile
    if keras.backend.backend() != "tensorflow":
        return _export_elsewhere(source, target, profile, task.said())
    from tf_proxquant import litert

    data = task.calibration() if profile == "static" else None
    return litert.export(
        str(source), str(target), profile, inputs=task.examples(), representative_data=data,
        **task.said(),
    ).to_dict()  # fmt: skip


def _export_elsewhere(source, target, profile, said):
    """Exports in a process with the TensorFlow backend; returns the report."""
    command = [sys.executable, "-m", "tf_proxquant.litert", str(source), str(target)]
    for name in ("labels", "vocabulary"):
        if name in said:  # the file lies beside the model
            command.append(f"--{name}={source.with_name(f'{name}.txt')}")
    if "value_range" in said:
        command.append(f"--value_range={','.join(map(str, said['value_range']))}")
    result = subprocess.run(
        [*command, f"--profile={profile}", "--json"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "KERAS_BACKEND": "tensorflow"},
    )
    if result.returncode:
        raise ValueError(f"The export of '{source}' failed, see above. The model is kept.")
    return json.loads(result.stdout)
