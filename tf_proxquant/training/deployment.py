"""Export of the trained model, and its score in the LiteRT interpreter."""

import importlib.util
import json
import os
import subprocess
import sys

import keras
import numpy as np

# Training images that the static profile is calibrated on.
_CALIBRATION_IMAGES = 256


def check(settings):
    """Raises ValueError if the export that the settings ask for cannot be made here."""
    if settings.export_profile == "static" and keras.backend.backend() != "tensorflow":
        raise ValueError(
            "--export_profile=static needs the TensorFlow backend, for its calibration. Received: "
            f"KERAS_BACKEND={keras.backend.backend()}."
        )


def export_and_score(settings, train, test, workdir):
    """Exports model.keras to model.tflite and scores that on the whole test set.

    Where Keras runs on another backend the export runs in a process of its own with
    TensorFlow; where TensorFlow is not installed it is left out, and the figures are None.

    Returns: dict with tflite_path, tflite_bytes, float_tflite_bytes, tflite_accuracy.
    """
    report = {
        "tflite_path": None,
        "tflite_bytes": None,
        "float_tflite_bytes": None,
        "tflite_accuracy": None,
    }
    if importlib.util.find_spec("tensorflow") is None:
        print("No export: TensorFlow is not installed.", file=sys.stderr)
        return report
    from tf_proxquant import litert

    source, target = workdir / "model.keras", workdir / "model.tflite"
    print(f"exporting {target}", flush=True)
    if keras.backend.backend() == "tensorflow":
        calibration = None
        if settings.export_profile == "static":
            calibration = train.normalize(train.images[:_CALIBRATION_IMAGES])
        exported = litert.export(
            str(source),
            str(target),
            settings.export_profile,
            representative_data=calibration,
        ).to_dict()
    else:
        exported = _export_elsewhere(source, target, settings.export_profile)
    workdir.write_json("export.json", exported)
    logits = litert.predict(str(target), test.normalize(test.images))
    report["tflite_accuracy"] = float(np.mean(np.argmax(logits, axis=-1) == test.labels))
    report["tflite_path"] = str(target)
    report["tflite_bytes"] = target.stat().st_size
    report["float_tflite_bytes"] = exported["float_bytes"]
    return report


def _export_elsewhere(source, target, profile):
    """Exports in a process with the TensorFlow backend; returns the report."""
    command = [sys.executable, "-m", "tf_proxquant.litert", str(source), str(target)]
    result = subprocess.run(
        [*command, f"--profile={profile}", "--json"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "KERAS_BACKEND": "tensorflow"},
    )
    if result.returncode:
        raise ValueError(f"The export of '{source}' failed, see above. The model is kept.")
    return json.loads(result.stdout)
