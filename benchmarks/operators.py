"""Where the time of an exported file goes: microseconds of each kind of operator.

    python -m benchmarks.operators                          # ResNet-20 of one bit, float and small
    python -m benchmarks.operators --network=MobileNetV2    # one of keras.applications, 64 x 64
    python -m benchmarks.operators --bits=2 --profiles=small,balanced
    python -m benchmarks.operators --toy                    # a small network, seconds

Each operator is timed in a file of its own, with the operators that decode its weights, then these
alone are timed in another and taken off; one thread, batch 1, XNNPACK, the fastest of some rounds.
The sum is not the time of the whole file: XNNPACK joins operators, and caches are warmer here.
"""

import argparse
import collections
import os
import pathlib
import tempfile
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import tf_proxquant as pq
from benchmarks import zoo
from tf_proxquant.litert.check import probes, timing
from tf_proxquant.litert.read import convert, flatbuffer

QUANTIZERS = {
    1: pq.Binary("mean", axis=-1),
    2: pq.Uniform(2, axis=-1, mid_rise=True),
    4: pq.Uniform(4, axis=-1),
}
RESNET = "ResNet-20"


def make(network, bits):
    """A network with random weights on levels."""
    keras.utils.set_random_seed(0)
    if network in (RESNET, "toy"):
        depth, size = (20, 32) if network == RESNET else (8, 16)
        model = pq.models.resnet(depth, (size, size, 3), 10)
    else:
        model = zoo.application(network)
    zoo.randomize(model)
    pq.snap(model, QUANTIZERS[bits])
    return model


def list_times(content):
    """Microseconds by kind of operator: dict {kind: (how many, microseconds)}."""
    model = flatbuffer.Model(content)
    (graph,) = model.subgraphs
    decoded = probes.decoded_tensors(model, graph)
    makers = {
        int(operator.outputs[0]): model.operator_name(operator) for operator in graph.operators
    }
    found = collections.defaultdict(lambda: [0, 0.0])
    for place, operator in enumerate(graph.operators):
        if int(operator.outputs[0]) in decoded:
            continue
        weights = [int(i) for i in operator.inputs if int(i) in decoded]
        kind = model.operator_name(operator)
        if weights:
            kind += f" of weights from {makers[weights[0]]}"
        seconds = time_alone(content, place, decoded)
        for index in weights:
            if graph.tensors[index].type == 0:
                decoding = timing.measure_latency(decoder_alone(content, index))
                seconds -= decoding
                count(found, f"decoding by {makers[index]}", decoding)
        count(found, kind, max(seconds, 0))
    return {kind: tuple(entry) for kind, entry in found.items()}


def count(found, kind, seconds):
    found[kind][0] += 1
    found[kind][1] += 1e6 * seconds


def time_alone(content, place, decoded):
    """Seconds of one operator, and of those that decode what it reads."""
    model = flatbuffer.Model(content)
    (graph,) = model.subgraphs
    operator = graph.operators[place]
    read = [int(i) for i in operator.inputs if i >= 0]
    inputs = [i for i in read if i not in decoded and model.constant(graph.tensors[i]) is None]
    for index in inputs:
        graph.tensors[index].shapeSignature = None
    graph.operators = needed(graph.operators[: place + 1], {int(operator.outputs[0])}, inputs)
    graph.inputs, graph.outputs = np.array(inputs, np.int32), operator.outputs
    return timing.measure_latency(only(model))


def decoder_alone(content, index):
    """Bytes of a file that decodes one weight."""
    model = flatbuffer.Model(probes.decoder_probe(content, 0, [index]))
    (graph,) = model.subgraphs
    graph.operators = needed(graph.operators, {int(i) for i in graph.outputs}, graph.inputs)
    return only(model)


def needed(operators, wanted, inputs):
    """Those of some operators that make `wanted` of constants and `inputs`."""
    wanted, kept = set(wanted), []
    for operator in reversed(operators):
        if wanted.intersection(map(int, operator.outputs)):
            kept.append(operator)
            wanted.update({int(i) for i in operator.inputs} - {int(i) for i in inputs})
    return kept[::-1]


def only(model):
    model.model.signatureDefs = None
    model.prune()
    return model.to_bytes()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default=RESNET, help=f"{RESNET} or of keras.applications")
    parser.add_argument("--bits", type=int, choices=QUANTIZERS, default=1)
    parser.add_argument("--profiles", default="small")
    parser.add_argument("--toy", action="store_true", help="a small network")
    options = parser.parse_args()
    model = make("toy" if options.toy else options.network, options.bits)
    files = {"float": convert.convert(model)[0]}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = pathlib.Path(folder) / "model.tflite"
        path.write_bytes(files["float"])
        for profile in options.profiles.split(","):
            pq.export(path, written := path.with_name(f"{profile}.tflite"), profile, verify=False)
            files[profile] = written.read_bytes()
    print("| file | bytes | of it | how many | microseconds |\n|---|---|---|---|---|")
    for name, content in files.items():
        whole = 1e6 * timing.measure_latency(content)
        print(f"| **{name}** | {len(content):,} | the whole file | 1 | {whole:,.0f} |")
        times = list_times(content)
        for kind, (number, time) in sorted(times.items(), key=lambda item: -item[1][1]):
            print(f"| | | {kind} | {number} | {time:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
