"""Latency of .tflite files, side by side."""

import time

import numpy as np

from tf_proxquant.litert.check import runtime

ROUND_SECONDS = 0.002  # short, so that some rounds pass undisturbed on a busy machine
MIN_ROUNDS, MAX_ROUNDS = 8, 200


def measure_slowdown(content, reference, seconds=0.6, kernels="xnnpack"):
    """Latency of a file over that of another, with one thread and a batch of 1.

    The two take turns, and the fastest round of each counts: what else the machine does can only
    make a round slower.

    Args:
      content: bytes of a .tflite file.
      reference: bytes of the file it is compared with.
      seconds: time to spend, about; at least 8 rounds are run.
      kernels: "xnnpack" or "builtin".

    Returns: float, above 1 where `content` is slower.
    """
    interpreters = [_prepared(reference, kernels), _prepared(content, kernels)]
    per_round = max(1, int(ROUND_SECONDS / _time(interpreters[0], 1)))
    best, end, rounds = [np.inf, np.inf], time.perf_counter() + seconds, 0
    while rounds < MIN_ROUNDS or (rounds < MAX_ROUNDS and time.perf_counter() < end):
        rounds += 1
        for place, interpreter in enumerate(interpreters):
            best[place] = min(best[place], _time(interpreter, per_round))
    return best[1] / best[0]


def confirmed_slowdown(content, reference, limit):
    """As `measure_slowdown`; what seems slower than `limit` is measured up to three times.

    A busy machine must not cost bytes.
    """
    measured = np.inf
    for _ in range(3):
        measured = min(measured, measure_slowdown(content, reference))
        if measured <= limit:
            break
    return measured


def measure_latency(content):
    """Seconds per call of a file at batch 1 on XNNPACK with one thread; the fastest of 8 rounds."""
    interpreter = _prepared(content)
    per_round = max(1, int(ROUND_SECONDS / _time(interpreter, 1)))
    return min(_time(interpreter, per_round) for _ in range(MIN_ROUNDS))


def _prepared(content, kernels="xnnpack"):
    interpreter = runtime.make_interpreter(content, kernels, num_threads=1)
    interpreter.allocate_tensors()
    generator = np.random.default_rng(0)
    for details in interpreter.get_input_details():
        value = np.zeros(details["shape"], details["dtype"])
        if value.dtype.kind == "f":
            value[...] = generator.standard_normal(value.shape)
        interpreter.set_tensor(details["index"], value)
    return interpreter


def _time(interpreter, count):
    interpreter.invoke()
    start = time.perf_counter()
    for _ in range(count):
        interpreter.invoke()
    return (time.perf_counter() - start) / count
