"""Word-level language models with LSTM layers, plain Keras."""

import keras
from keras import layers as keras_layers


def lstm_language_model(
    vocabulary: int,
    embedding: int | None = 300,
    hidden: int = 300,
    layers: int = 1,
    tied: bool = False,
    dropout: float = 0.5,
    *,
    batch_size: int | None = None,
    steps: int | None = None,
    stateful: bool = False,
    unroll: bool = False,
    name: str | None = None,
) -> keras.Model:
    """Builds the language model of the paper: embedding, LSTM layers, a score for every word.

    Dropout is applied to the embedding and to the output of each layer, not between steps. The
    trainable variables are the embedding table (vocabulary, embedding); of each layer a kernel
    (inputs, 4 hidden), a recurrent kernel (hidden, 4 hidden) and a bias; the kernel of the output
    (hidden, vocabulary) and its bias.

    Args:
      vocabulary: int >= 2, number of words.
      embedding: int >= 1, size of a word's vector; 300 in the paper.
      hidden: int >= 1, units of each LSTM layer; 300 in the paper.
      layers: int >= 1, number of LSTM layers.
      tied: True takes one table for embedding and output, one variable, which is then quantized
        once; `embedding` must equal `hidden`, and the output has no bias.
      dropout: rate in [0, 1).
      batch_size: fixes the batch dimension; None leaves it open.
      steps: fixes the number of words; None leaves it open.
      stateful: True starts each batch from the states in which the one before it ended, as
        truncated back-propagation needs; it takes a `batch_size`. See `callbacks.ResetStates`.
      unroll: True unrolls the layers, for which `steps` must be given.
      name: name of the model.

    Returns: an uncompiled functional `keras.Model` from word numbers, int32 (batch, steps), to
      logits of the next word, float (batch, steps, vocabulary).
    Raises: ValueError: for sizes out of range or that do not go together.

    Example:
      >>> model = lstm_language_model(10_000)
      >>> sum(math.prod(v.shape) for v in model.trainable_variables)
      6731200

    Reference: Bai, Wang, Liberty, ICLR 2019, arXiv:1810.00861, section 4.2; the dropout of
      Zaremba et al., Recurrent neural network regularization, arXiv:1409.2329.
    """
    sizes = {"vocabulary": vocabulary, "embedding": embedding, "hidden": hidden, "layers": layers}
    _check(sizes, tied, dropout, stateful and batch_size is None, unroll and steps is None)
    words = keras.Input((steps,), batch_size=batch_size, dtype="int32", name="words")
    table = _table(vocabulary, embedding, tied)
    x = _drop(table(words), dropout, "embedding_dropout")
    for number in range(1, layers + 1):
        x = keras_layers.LSTM(
            hidden, return_sequences=True, stateful=stateful, unroll=unroll, name=f"lstm{number}"
        )(x)
        x = _drop(x, dropout, f"lstm{number}_dropout")
    logits = table(x, reverse=True) if tied else keras_layers.Dense(vocabulary, name="head")(x)
    return keras.Model(words, logits, name=name or "lstm_language_model")


def with_states(model: keras.Model, steps: int = 1, unroll: bool = True) -> keras.Model:
    """Copies a language model into one that takes its LSTM states and gives the new ones.

    With one step it is what a keyboard runs: a word and the states in, the scores of the next word
    and the states out; no loop, and any number of streams at once. The copy has the weights
    that the model has now, and no dropout.

    Args:
      model: as `lstm_language_model` returns it.
      steps: int >= 1, words of a call.
      unroll: False loops over the steps; such a model exports for one stream only.

    Returns: a functional `keras.Model` from a dict to a dict. In: "words", int32 (batch, steps),
      and for layer 1, 2, ... "hidden1", "cell1", ..., float (batch, hidden), zeros at the start of
      a text. Out: "logits", float (batch, steps, vocabulary), and the states under the names that
      they come in by.
    Raises: ValueError: for a model of another kind.
    """
    layers = {layer.name: layer for layer in model.layers if layer.weights}
    if not {"embedding", "lstm1"} <= layers.keys():
        raise ValueError(
            f"`with_states` takes a model of `lstm_language_model`. Received: {model.name!r} with "
            f"layers {sorted(layers)}."
        )
    batch_size = None if unroll else 1
    inputs = {"words": keras.Input((steps,), batch_size, dtype="int32", name="words")}
    copies = {name: _copy_with_states(layer, unroll) for name, layer in layers.items()}
    x, outputs = copies["embedding"](inputs["words"]), {}
    recurrent = [layer for layer in copies.values() if isinstance(layer, keras_layers.LSTM)]
    for number, layer in enumerate(recurrent, start=1):
        names = [f"hidden{number}", f"cell{number}"]
        states = [keras.Input((layer.units,), batch_size, name=name) for name in names]
        inputs.update(zip(names, states, strict=True))
        x, *states = layer(x, initial_state=states)
        outputs.update(zip(names, states, strict=True))
    logits = copies["head"](x) if "head" in copies else copies["embedding"](x, reverse=True)
    for name, layer in layers.items():
        pairs = copies[name].trainable_variables, layer.trainable_variables
        for variable, value in zip(*pairs, strict=True):
            variable.assign(value)
    return keras.Model(inputs, {"logits": logits, **outputs}, name=f"{model.name}_with_states")


def _copy_with_states(layer, unroll):
    config = layer.get_config()
    if isinstance(layer, keras_layers.LSTM):
        config.update(return_state=True, stateful=False, unroll=unroll)
    return type(layer).from_config(config)


def _table(vocabulary, embedding, tied):
    kind = keras_layers.ReversibleEmbedding if tied else keras_layers.Embedding
    return kind(vocabulary, embedding, name="embedding")


def _drop(x, rate, name):
    return keras_layers.Dropout(rate, name=name)(x) if rate else x


def _check(sizes, tied, dropout, lacks_batch_size, lacks_steps):
    for name, value in sizes.items():
        smallest = 2 if name == "vocabulary" else 1
        if not isinstance(value, int) or isinstance(value, bool) or value < smallest:
            raise ValueError(
                f"`{name}` must be an integer of at least {smallest}. Received: {name}={value!r}."
            )
    if tied and sizes["embedding"] != sizes["hidden"]:
        raise ValueError(
            "A tied model needs `embedding` equal to `hidden`, for one table serves both ends. "
            f"Received: embedding={sizes['embedding']}, hidden={sizes['hidden']}."
        )
    if not 0 <= dropout < 1:
        raise ValueError(f"`dropout` must be at least 0 and below 1. Received: {dropout!r}.")
    if lacks_batch_size:
        raise ValueError("A stateful model needs a `batch_size`. Received: batch_size=None.")
    if lacks_steps:
        raise ValueError("An unrolled model needs a fixed `steps`. Received: steps=None.")
