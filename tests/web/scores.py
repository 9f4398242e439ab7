"""The scores of a .tflite file, from the interpreter alone."""

import os

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from ai_edge_litert.interpreter import Interpreter


def scorer(tflite):
    """Returns a function from an input of the file's size to the scores of its classes."""
    interpreter = Interpreter(model_content=tflite)
    interpreter.allocate_tensors()
    (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()

    def score(values):
        values = np.asarray(values, np.float32).reshape(taken["shape"])
        interpreter.set_tensor(taken["index"], values)
        interpreter.invoke()
        return interpreter.get_tensor(given["index"])[0]

    return score
