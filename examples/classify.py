"""The best three classes of pictures with their scores, from a .tflite file alone.

    python examples/classify.py PICTURE... --model=model.tflite

It knows nothing of the package that wrote the file: the labels lie in the file, and the model takes
pixels from 0 to 255. A model of cropped pictures needs `ImageOps.fit` in place of `resize`, one of
padded pictures `ImageOps.pad`.
"""

import argparse
import zipfile

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image, ImageOps

parser = argparse.ArgumentParser(description="Prints the best three classes of each picture.")
parser.add_argument("pictures", nargs="+", metavar="PICTURE")
parser.add_argument("--model", default="model.tflite")
options = parser.parse_args()

labels = zipfile.ZipFile(options.model).read("labels.txt").decode().splitlines()
model = Interpreter(options.model)
model.allocate_tensors()
(taken,), (given,) = model.get_input_details(), model.get_output_details()
_, height, width, channels = taken["shape"]
for path in options.pictures:
    picture = ImageOps.exif_transpose(Image.open(path)).convert("RGB" if channels == 3 else "L")
    pixels = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))
    model.set_tensor(taken["index"], pixels.astype(taken["dtype"]).reshape(taken["shape"]))
    model.invoke()
    scores = model.get_tensor(given["index"])[0]
    best = np.argsort(scores)[:-4:-1]
    print(path, *(f"{labels[i]} {scores[i]:.3f}" for i in best), sep="  ")
