"""Measures of how far weights are from a grid, and how far they travelled."""

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from tf_proxquant.quantizers import Quantizer
from tf_proxquant.typing import Tensor, TensorLike


def quantization_error(weights: TensorLike, quantized: TensorLike) -> float:
    """Relative distance of weights to their quantized values.

        ||weights - quantized|| / ||weights||        (Euclidean norms over all entries)

    Args:
      weights: float tensor of any shape, or a list of them, taken together.
      quantized: the same structure and shapes.

    Returns: float >= 0; 0 where both norms are 0, inf where only the weights are 0.
    Raises: ValueError: if the structures or shapes differ.

    Example:
      >>> quantization_error([3.0, 4.0], [3.0, 1.0])
      0.6
    """
    pairs = list(_pairs("weights", weights, "quantized", quantized))
    distance = sum(float(np.sum((w - q) ** 2)) for w, q in pairs)
    norm = sum(float(np.sum(w**2)) for w, _ in pairs)
    if norm == 0:
        return 0.0 if distance == 0 else float("inf")
    return float(np.sqrt(distance / norm))


def sign_changes(before: TensorLike | Sequence, after: TensorLike | Sequence) -> float:
    """Share of weights whose sign differs between two moments.

    The sign of 0 counts as positive, the package's tie rule.

    Args:
      before: float tensor of any shape, or a list of them, taken together.
      after: the same structure and shapes.

    Returns: float in [0, 1]; 0 for no weights.
    Raises: ValueError: if the structures or shapes differ.

    Example:
      >>> sign_changes([1.0, -1.0, 0.0, 2.0], [1.0, 1.0, 0.5, -2.0])
      0.5
    """
    pairs = list(_pairs("before", before, "after", after))
    changed = sum(int(np.sum((b >= 0) != (a >= 0))) for b, a in pairs)
    return changed / max(1, sum(b.size for b, _ in pairs))


def relative_to_levels(weights: Tensor, quantizer: Quantizer, levels: Tensor) -> np.ndarray:
    """Weights in units of the largest level of their channel.

        weights / max_k |level_k|        with the levels of each weight's own group

    Args:
      weights: float tensor of any shape.
      quantizer: the `Quantizer` that fitted the levels.
      levels: as `quantizer.levels` returns them.

    Returns: array with the shape of `weights`, divided by 1 where all levels are 0.

    Example:
      >>> quantizer = pq.Binary("mean", axis=-1)
      >>> w = np.array([[1.0, 10.0], [-3.0, 30.0]])
      >>> relative_to_levels(w, quantizer, quantizer.levels(w)).tolist()
      [[0.5, 0.5], [-1.5, 1.5]]
    """
    largest = quantizer.spread(weights, ops.max(ops.abs(levels), axis=-1))
    unit = ops.convert_to_numpy(ops.where(largest > 0, largest, ops.ones_like(largest)))
    return ops.convert_to_numpy(weights) / unit


def share_on_grid(weights: TensorLike, quantized: TensorLike) -> float:
    """Share of weights that are at their quantized value, within rounding.

    Within 8 units of rounding (of the dtype) of the tensor's largest quantized value: the
    levels are means, and refitting them to weights on the grid can move them that much.

    Args:
      weights: float tensor of any shape, or a list of them, taken together.
      quantized: the same structure and shapes.

    Returns: float in [0, 1]; 1 for no weights.
    Raises: ValueError: if the structures or shapes differ.

    Example:
      >>> share_on_grid([1.0, -1.0, 0.9], [1.0, -1.0, 1.0])  # doctest: +ELLIPSIS
      0.666...
    """
    on_grid = total = 0
    for w, q in _pairs("weights", weights, "quantized", quantized, dtype=None):
        total += w.size
        if w.size:
            eps = np.finfo(w.dtype).eps if w.dtype.kind == "f" else 2.0**-7
            tolerance = 8 * float(eps) * float(np.max(np.abs(q.astype("float64"))))
            distance = np.abs(w.astype("float64") - q.astype("float64"))
            on_grid += int(np.sum(distance <= tolerance))
    return on_grid / total if total else 1.0


def _pairs(first_name, first, second_name, second, dtype="float64"):
    """Yields pairs of NumPy arrays of `dtype`, None keeping their own."""
    first, second = _arrays(first, dtype), _arrays(second, dtype)
    shapes = [a.shape for a in first], [a.shape for a in second]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"`{first_name}` and `{second_name}` must have the same shapes. "
            f"Received: {shapes[0]} and {shapes[1]}."
        )
    yield from zip(first, second, strict=True)


def _arrays(value, dtype):
    is_list_of_tensors = isinstance(value, (list, tuple)) and any(
        hasattr(v, "shape") for v in value
    )
    tensors = value if is_list_of_tensors else [value]
    arrays = [np.asarray(ops.convert_to_numpy(tensor)) for tensor in tensors]
    return [a.astype(dtype) if dtype else a for a in arrays]


@keras.saving.register_keras_serializable("tf_proxquant")
class Perplexity(keras.metrics.Mean):
    """exp of the mean negative log-likelihood of a word, over all words seen.

    Takes logits. Give it to `compile(weighted_metrics=[...])` where windows are padded, so that
    words of weight 0 do not count.

    Args:
      name: of the metric.
      dtype: of its sums.

    Example:
      >>> metric = Perplexity()
      >>> metric.update_state(np.array([[1, 0]]), np.log([[[1.0, 3.0], [1.0, 1.0]]]))
      >>> round(float(metric.result()) ** 2, 5)             # 1 / (3/4 * 1/2)
      2.66667
    """

    def __init__(self, name: str = "perplexity", dtype: str | keras.DTypePolicy | None = None):
        super().__init__(name=name, dtype=dtype)

    def update_state(
        self, y_true: TensorLike, y_pred: TensorLike, sample_weight: TensorLike | None = None
    ) -> None:
        nats = keras.losses.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)
        super().update_state(nats, sample_weight)

    def result(self) -> Tensor:
        return ops.exp(super().result())
