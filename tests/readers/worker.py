"""Feeds .tflite files to one reader: python worker.py READER FILE ...

Runs in the environment of the readers and knows nothing of tf_proxquant. Beside each FILE lies
FILE.npz with its inputs, in the order of the file; the outputs go to FILE.READER.npz. Each file has
a process of its own, forked after the imports, which may crash. One line of JSON for each file:
[path, "ran" or "read" or "refused", what the reader said].
"""

import importlib
import io
import json
import logging
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import zipfile

import numpy as np

SECONDS = 60  # for one file
ARENA = 1 << 24


def by_sample(function, inputs):
    """Calls `function` with a list of arrays for each sample and joins what it gives."""
    count = len(inputs[0])
    rows = [function([each[i : i + 1] for each in inputs]) for i in range(count)]
    return [np.concatenate(parts) for parts in zip(*rows, strict=True)]


def litert(path, inputs):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    sides = interpreter.get_input_details(), interpreter.get_output_details()

    def run(arrays):
        for details, array in zip(sides[0], arrays, strict=True):
            interpreter.set_tensor(details["index"], array)
        interpreter.invoke()
        return [interpreter.get_tensor(details["index"]) for details in sides[1]]

    return by_sample(run, inputs)


def compiled_model(path, inputs):
    from ai_edge_litert.compiled_model import CompiledModel

    model = CompiledModel.from_file(str(path))
    signature = model.get_signature_list()["serving_default"]
    sides = [
        [details(name) for name in signature[key]]
        for key, details in (
            ("inputs", lambda n: model.get_input_tensor_details("serving_default")[n]),
            ("outputs", lambda n: model.get_output_tensor_details("serving_default")[n]),
        )
    ]
    buffers = model.create_input_buffers(0), model.create_output_buffers(0)

    def run(arrays):
        for buffer, array in zip(buffers[0], arrays, strict=True):
            buffer.write(np.ascontiguousarray(array))
        model.run_by_index(0, *buffers)
        return [
            buffer.read(int(np.prod(details["shape"])), details["dtype"]).reshape(details["shape"])
            for buffer, details in zip(buffers[1], sides[1], strict=True)
        ]

    return by_sample(run, inputs)


def mediapipe(path, inputs):
    import mediapipe
    from mediapipe.tasks import python as tasks
    from mediapipe.tasks.python import vision

    if inputs[0].ndim != 4 or not zipfile.is_zipfile(path):
        return "-"  # no images, or no names of classes
    options = vision.ImageClassifierOptions(tasks.BaseOptions(model_asset_path=str(path)))
    with vision.ImageClassifier.create_from_options(options) as classifier:

        def run(arrays):
            pixels = np.ascontiguousarray(arrays[0][0].astype(np.uint8))
            image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=pixels)
            found = classifier.classify(image).classifications[0].categories
            return [np.array([[c.score for c in sorted(found, key=lambda c: c.index)]])]

        return by_sample(run, inputs)


def openvino(path, inputs):
    import openvino

    model = openvino.compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return by_sample(lambda arrays: list(model(arrays).values()), inputs)


def onnxruntime(path, inputs):
    import onnxruntime
    import tf2onnx.convert

    logging.disable(logging.ERROR)
    converted = str(path.with_suffix(".onnx"))
    tf2onnx.convert.from_tflite(str(path), opset=18, output_path=converted)
    session = onnxruntime.InferenceSession(converted)
    names = [each.name for each in session.get_inputs()]
    return by_sample(
        lambda arrays: session.run(None, dict(zip(names, arrays, strict=True))), inputs
    )


def tflite_micro(path, inputs):
    from tflite_micro import runtime

    interpreter = runtime.Interpreter.from_file(str(path), arena_size=ARENA)

    def run(arrays):
        for place, array in enumerate(arrays):
            interpreter.set_input(array, place)
        interpreter.invoke()
        return [interpreter.get_output(0)]

    return by_sample(run, inputs)


def vela(path, inputs):
    del inputs
    command = [str(pathlib.Path(sys.executable).with_name("vela")), str(path)]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [*command, "--output-dir", folder, "--accelerator-config", "ethos-u55-128"],
            capture_output=True, text=True, timeout=SECONDS,
        )  # fmt: skip
    said = done.stdout + done.stderr
    if done.returncode:
        raise RuntimeError(f"vela ended with status {done.returncode}: {said.strip()[-200:]}")
    counts = {}
    for line in said.splitlines():
        for kind in ("NPU", "CPU"):
            if line.startswith(f"{kind} operators ="):
                counts[kind] = line.split("=")[1].split("(")[0].strip()
    if counts.get("NPU", "0") == "0":
        raise RuntimeError("no operator on the NPU")
    return f"{counts['NPU']} + {counts.get('CPU', '0')}"


def model_explorer(path, inputs, name="tflite_flatbuffer", kind="TfliteFlatbuffer"):
    del inputs
    module = importlib.import_module(f"model_explorer.builtin_{name}_adapter")
    adapter = getattr(module, f"Builtin{kind}Adapter")()
    graph = adapter.convert(str(path), {})["graphCollections"][0]
    return "read" if graph.graphs[0]["nodes"] else "empty"


def model_explorer_mlir(path, inputs):
    return model_explorer(path, inputs, "tflite_mlir", "TfliteMlir")


def recipe(path, inputs):
    """The Python beside the file, FILE.py, with `pixels` for one sample; it makes `scores`."""
    code = compile(path.with_suffix(".py").read_text(), str(path.with_suffix(".py")), "exec")
    os.chdir(path.parent)

    def run(arrays):
        names = {"pixels": arrays[0]}
        exec(code, names)
        return [np.asarray(names["scores"])]

    return by_sample(run, inputs)


# The modules that a reader needs, imported once.
READERS = {
    "litert": (litert, ["ai_edge_litert.interpreter"]),
    "compiled_model": (compiled_model, ["ai_edge_litert.compiled_model"]),
    "mediapipe": (mediapipe, ["mediapipe.tasks.python.vision"]),
    "openvino": (openvino, ["openvino"]),
    "onnxruntime": (onnxruntime, ["tf2onnx.convert", "onnxruntime"]),
    "tflite_micro": (tflite_micro, ["tflite_micro"]),
    "vela": (vela, ["ethosu.vela"]),
    "model_explorer": (model_explorer, ["model_explorer"]),
    "model_explorer_mlir": (model_explorer_mlir, ["model_explorer"]),
    "recipe": (recipe, []),
}


def read(name, path, pipe, log):
    """Runs in the process of one file; what the reader prints goes to `log`."""
    for stream in (1, 2):
        os.dup2(log.fileno(), stream)
    try:
        with np.load(path.with_suffix(".npz")) as arrays:
            inputs = [arrays[key] for key in arrays.files]
        result = READERS[name][0](path, inputs)
        if isinstance(result, str):
            pipe.send(("read", result))
            return
        np.savez(path.with_suffix(f".{name}.npz"), *result)
        pipe.send(("ran", ""))
    except BaseException as error:
        log.flush()
        said = pathlib.Path(log.name).read_text(errors="replace")
        pipe.send(("refused", f"{type(error).__name__}: {error}\n{said[-4000:]}"))


def answer(name, path):
    """("ran" or "read" or "refused", what was said) of one file."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    with tempfile.NamedTemporaryFile("w") as log:
        process = context.Process(target=read, args=(name, path, sender, log))
        process.start()
        sender.close()
        try:
            found = receiver.recv() if receiver.poll(SECONDS) else ("refused", "hangs")
        except EOFError:
            process.join()
            found = "refused", f"crashes with {signal.Signals(-process.exitcode).name}"
        process.kill()
        process.join()
    return found


def main(name, *paths):
    standard = os.dup(1)
    os.dup2(2, 1)  # imports print
    try:
        for module in READERS[name][1]:
            importlib.import_module(module)
    except ImportError as error:
        os.write(standard, f"{json.dumps(['', 'missing', str(error)])}\n".encode())
        return
    with io.FileIO(standard, "w") as out:
        for path in paths:
            found = answer(name, pathlib.Path(path))
            out.write(f"{json.dumps([path, *found])}\n".encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
