"""Several TensorFlow workers train one binary network, in a loop of their own.

`fit` fails under MultiWorkerMirroredStrategy inside Keras 3 (keras-team/keras#20585); a custom loop
works. Start it once per worker, with the cluster in TF_CONFIG as TensorFlow wants it:

    TF_CONFIG='{"cluster": {"worker": ["host0:1234", "host1:1234"]}, "task": {"type": "worker",
      "index": 0}}' python -m examples.multi_worker --out=weights.npz

Every worker takes its part of each batch; Keras sums the gradients, the prox runs on each worker
on equal weights, and they stay equal bit for bit.
"""

import argparse
import json
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf

# Before anything else of TensorFlow is used.
strategy = tf.distribute.MultiWorkerMirroredStrategy()

import keras  # noqa: E402
import numpy as np  # noqa: E402

import tf_proxquant as pq  # noqa: E402

EPOCHS, BATCH = 6, 96


def make_model():
    """A small network for 8 x 8 digits, its optimizer built, on every worker alike."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((64,)), keras.layers.Dense(32, activation="relu"), keras.layers.Dense(10)]
    )
    optimizer = pq.ProxQuant(
        keras.optimizers.SGD(0.1), pq.Binary(scale="mean", axis=-1), 1.0, freeze_step=60
    )
    optimizer.build(model.trainable_variables)
    return model, optimizer


def make_step(model, optimizer):
    """Returns the function that trains on this worker's part of one batch."""
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")

    def replica_step(images, labels):
        with tf.GradientTape() as tape:
            # Over the batch of all workers: the optimizer adds the gradients up.
            loss = loss_of(labels, model(images, training=True)) / BATCH
        variables = model.trainable_variables
        gradients = tape.gradient(loss, [variable.value for variable in variables])
        optimizer.apply(gradients, variables)
        return loss

    @tf.function
    def step(images, labels):
        losses = strategy.run(replica_step, args=(images, labels))
        return strategy.reduce("SUM", losses, axis=None)

    return step


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", help="the .npz file to write the weights of this worker to")
    out = parser.parse_args().out
    config = json.loads(os.environ.get("TF_CONFIG", "{}"))
    workers = len(config.get("cluster", {}).get("worker", [None]))
    index = config.get("task", {}).get("index", 0)
    digits = pq.datasets.load("digits")
    images = digits.x_train[:1344].reshape(-1, 64).astype("float32") / 16
    with strategy.scope():
        model, optimizer = make_model()
    step = make_step(model, optimizer)
    part = BATCH // workers
    for epoch in range(EPOCHS):
        order = np.random.default_rng(epoch).permutation(len(images)).reshape(-1, BATCH)
        for batch in order:
            own = batch[part * index : part * (index + 1)]
            loss = step(tf.constant(images[own]), tf.constant(digits.y_train[own]))
        print(f"worker {index}, epoch {epoch + 1}/{EPOCHS}, loss {float(loss):.4f}", flush=True)
    if out:
        np.savez(out, *model.get_weights())


if __name__ == "__main__":
    main()
