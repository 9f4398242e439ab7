"""The CIFAR residual networks of the paper, plain Keras."""

import keras
from keras import layers


def resnet(
    depth: int,
    input_shape: tuple[int, ...],
    num_classes: int,
    width: int = 16,
    name: str | None = None,
    preprocessing: keras.layers.Layer | None = None,
) -> keras.Model:
    """Builds the ResNet of the paper's CIFAR-10 experiments.

    A 3x3 convolution, three stages of (depth - 2) / 6 basic blocks with width, 2 width
    and 4 width filters, global average pooling and a dense layer. The first block of
    stages 2 and 3 halves the image, and has a 1x1 convolution with BatchNorm as its
    shortcut. Every convolution is without bias and followed by BatchNorm.

    Trainable parameters for CIFAR-10: 272,474 (depth 20), 466,906 (32), 661,338 (44),
    855,770 (56).

    Args:
      depth: int, 6 n + 2 with n >= 1: 8, 14, 20, 32, 44, 56, ...
      input_shape: (height, width, channels) of the images.
      num_classes: int >= 2, number of logits.
      width: int >= 1, filters of the first stage; 16 in the paper.
      name: name of the model.
      preprocessing: layer that the images go through first, such as a
        `keras.layers.Normalization`; None takes them as they are.

    Returns: an uncompiled functional `keras.Model` from images, float (batch, height,
      width, channels), to logits, float (batch, num_classes).
    Raises: ValueError: for a depth that is not 6 n + 2, or fewer than 2 classes.

    Example:
      >>> model = resnet(20, (32, 32, 3), 10)
      >>> sum(math.prod(v.shape) for v in model.trainable_variables)
      272474

    Reference: He et al., Deep residual learning, CVPR 2016, section 4.2, with the
      projection shortcuts of the ProxQuant authors' code.
    """
    if not isinstance(depth, int) or depth < 8 or (depth - 2) % 6:
        raise ValueError(f"`depth` must be 6 n + 2: 8, 14, 20, 32, ... Received: depth={depth!r}.")
    if not isinstance(num_classes, int) or num_classes < 2:
        raise ValueError(
            f"`num_classes` must be an integer of at least 2. Received: {num_classes!r}."
        )
    if len(input_shape) != 3:
        raise ValueError(
            "`input_shape` must be (height, width, channels). "
            f"Received: input_shape={tuple(input_shape)}."
        )
    inputs = keras.Input(input_shape, name="image")
    x = inputs if preprocessing is None else preprocessing(inputs)
    x = _conv_norm(x, width, 3, 1, "stem")
    x = layers.Activation("relu", name="stem_relu")(x)
    for stage in range(3):
        for block in range((depth - 2) // 6):
            strides = 2 if stage > 0 and block == 0 else 1
            x = _basic_block(x, width * 2**stage, strides, f"stage{stage + 1}_block{block + 1}")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = layers.Dense(num_classes, name="head")(x)
    return keras.Model(inputs, outputs, name=name or f"resnet{depth}")


def _basic_block(x, filters, strides, name):
    shortcut = x
    if strides != 1:
        shortcut = _conv_norm(x, filters, 1, strides, f"{name}_shortcut")
    x = _conv_norm(x, filters, 3, strides, f"{name}_conv1")
    x = layers.Activation("relu", name=f"{name}_relu1")(x)
    x = _conv_norm(x, filters, 3, 1, f"{name}_conv2")
    x = layers.Add(name=f"{name}_add")([x, shortcut])
    return layers.Activation("relu", name=f"{name}_relu2")(x)


def _conv_norm(x, filters, kernel_size, strides, name):
    x = layers.Conv2D(
        filters,
        kernel_size,
        strides=strides,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=name,
    )(x)
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"{name}_norm")(x)
