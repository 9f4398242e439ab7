"""How much each layer minds being quantized, and a mixed precision for a size budget."""

import math
import re
from typing import Any, NamedTuple

import keras
from keras import ops

from tf_proxquant import quantizers, selection
from tf_proxquant.schedules import check_number
from tf_proxquant.typing import Select

_FULL_PRECISION = "full precision"

# A metric with one of these in its name is better when it is lower.
_LOWER_IS_BETTER = ("loss", "error", "perplexity")


class Candidate(NamedTuple):
    """One tensor at one precision, all others in full precision.

    Attributes:
      path: of the variable, without the name of the model.
      name: of the candidate; "full precision" for the tensor as it is.
      quantizer: `Quantizer`, None for full precision.
      bytes: of its codes, ceil(log2(number of levels)) bits each; scales and headers not counted.
      value: the model's metric.
      drop: what the metric lost, > 0 for worse.
    """

    path: str
    name: str
    quantizer: quantizers.Quantizer | None
    bytes: int
    value: float
    drop: float


class Sensitivity:
    """What `sensitivity` measured; `print` shows it as a table.

    Attributes:
      metric: name of the metric.
      rows: list of `Candidate`, by tensor and then as the candidates were given.
    """

    def __init__(self, metric: str, rows: list[Candidate]):
        self.metric, self.rows = metric, rows

    def suggest(self, max_bytes: float) -> dict:
        """Chooses a precision for each tensor so that their codes fit into a budget.

        Starts from the candidate with the smallest drop for each tensor, then takes again and again
        the exchange that costs least drop for each byte it saves. The drops are taken to add
        up, which they do only roughly, and training afterwards wins most of them back: it is a
        place to start, not an optimum.

        Args:
          max_bytes: number > 0, for the codes of all scanned tensors.

        Returns: dict from regex to quantizer (None for full precision), for `select=`.
        Raises: ValueError: if the smallest candidates together do not fit.
        """
        budget = check_number("max_bytes", max_bytes)
        choices = {}
        for row in self.rows:
            choices.setdefault(row.path, []).append(row)
        chosen = {path: min(rows, key=_cost) for path, rows in choices.items()}
        smallest = sum(min(row.bytes for row in rows) for rows in choices.values())
        if smallest > budget:
            raise ValueError(
                f"No choice of candidates fits. Received: max_bytes={max_bytes}. The smallest ones "
                f"take {smallest:,} bytes. Add candidates of fewer bits, or raise the budget."
            )
        while sum(row.bytes for row in chosen.values()) > budget:
            exchanges = [
                row for row in self.rows if row.bytes < chosen[row.path].bytes
            ]  # never empty: the smallest fit
            best = min(exchanges, key=lambda row: _price(row, chosen[row.path]))
            chosen[best.path] = best
        return {f"(^|/){re.escape(path)}$": row.quantizer for path, row in chosen.items()}

    def __str__(self):
        names = list(dict.fromkeys(row.name for row in self.rows))
        drops = {(row.path, row.name): row.drop for row in self.rows}
        paths = list(dict.fromkeys(row.path for row in self.rows))
        width = max(len(path) for path in paths)
        columns = [max(8, len(name)) for name in names]
        full = next(row.value for row in self.rows if row.quantizer is None)
        lines = [
            f"{self.metric} in full precision {full:.4f}; what it loses with one tensor snapped:"
        ]
        header = "  ".join(f"{name:>{size}}" for name, size in zip(names, columns, strict=True))
        lines.append(f"{'':<{width}}  {header}")
        for path in paths:
            cells = (
                f"{drops[path, name]:>{size}.4f}" for name, size in zip(names, columns, strict=True)
            )
            lines.append(f"{path:<{width}}  {'  '.join(cells)}")
        return "\n".join(lines)


def sensitivity(
    model: keras.Model,
    data: Any,
    candidates: dict | None = None,
    *,
    select: Select = None,
    metric: str | None = None,
    max_bytes: float | None = None,
    batch_size: int | None = None,
) -> Sensitivity:
    """Evaluates a trained model with one tensor snapped at a time.

    The weights are put back bit for bit after each evaluation, also after an exception. Costs
    1 + tensors x candidates evaluations.

    Args:
      model: a built and compiled `keras.Model`, trained in full precision.
      data: what `model.evaluate` takes as its first argument, or a tuple (x, y) or
        (x, y, sample_weight). Part of the training data or held-out data, not the test set, if
        the result is to choose a precision.
      candidates: dict from a name to a quantizer. None = binary, ternary, 2 and 4 bits, all per
        output channel, and 8 bits.
      select: which variables, as of `ProxQuant` but not a dict. None = every kernel and table.
      metric: name of a metric of `evaluate`; None = "accuracy" where there is one, else "loss".
        Lower is better if the name holds "loss", "error" or "perplexity", else higher.
      max_bytes: number; also prints the table and `suggest(max_bytes)`. None prints nothing.
      batch_size: int, for arrays; None takes Keras' default.

    Returns: `Sensitivity`.
    Raises: ValueError: for a model that is not built or compiled, an unknown metric, candidates
      that are no quantizers, and as `selection.resolve`.
    """
    _check_model(model)
    candidates = default_candidates() if candidates is None else candidates
    _check_candidates(candidates, select)
    arguments = (
        dict(zip(("x", "y", "sample_weight"), data, strict=False))
        if isinstance(data, (tuple, list))
        else {"x": data}
    )

    def evaluate():
        return model.evaluate(**arguments, batch_size=batch_size, verbose=0, return_dict=True)

    results = evaluate()
    metric = metric or ("accuracy" if "accuracy" in results else "loss")
    if metric not in results:
        raise ValueError(
            f"The model has no such metric. Received: metric={metric!r}. Expected one of "
            f"{sorted(results)}."
        )
    full = float(results[metric])
    sign = 1 if any(word in metric for word in _LOWER_IS_BETTER) else -1
    rows = []
    first = next(iter(candidates.values()))
    for variable, _ in selection.resolve(select, first, model.trainable_variables):
        path = selection.path(variable).removeprefix(f"{model.name}/")
        size = math.prod(variable.shape)
        rows.append(Candidate(path, _FULL_PRECISION, None, 4 * size, full, 0.0))
        for name, quantizer in candidates.items():
            levels = quantizer.levels(variable).shape[-1]
            num_bytes = math.ceil(size * math.ceil(math.log2(levels)) / 8)
            value = float(_with_snapped(variable, quantizer, evaluate)[metric])
            drop = sign * (value - full)
            rows.append(Candidate(path, name, quantizer, num_bytes, value, drop))
    found = Sensitivity(metric, rows)
    if max_bytes is not None:
        print(found)
        print(f"select= for {max_bytes:,} bytes:")
        for pattern, quantizer in found.suggest(max_bytes).items():
            print(f"  {pattern!r}: {quantizer!r},")
    return found


def default_candidates() -> dict:
    """Binary to 8 bits, a dict from a name to a quantizer."""
    return {
        "binary": quantizers.Binary("mean", axis=-1),
        "ternary": quantizers.Ternary(axis=-1),
        "2 bits": quantizers.MultiBit(2, axis=-1),
        "4 bits": quantizers.Uniform(4, axis=-1),
        "8 bits": quantizers.Uniform(8, axis=-1),
    }


def _with_snapped(variable, quantizer, evaluate):
    before = ops.copy(variable)
    try:
        variable.assign(quantizer(variable))
        return evaluate()
    finally:
        variable.assign(before)


def _cost(row):
    return max(0.0, row.drop), row.bytes


def _price(row, now):
    """Drop for each byte saved; a candidate that is smaller and no worse comes first."""
    return (max(0.0, row.drop) - max(0.0, now.drop)) / (now.bytes - row.bytes)


def _check_model(model):
    if not getattr(model, "built", False) or not getattr(model, "compiled", False):
        raise ValueError(
            "`sensitivity` needs a model that is built and compiled with its metrics. "
            f"Received: {model!r}. Call `model.compile(loss=..., metrics=[...])` first."
        )


def _check_candidates(candidates, select):
    if not isinstance(candidates, dict) or not candidates:
        raise ValueError(
            "`candidates` must be a dict from a name to a quantizer, not empty. "
            f"Received: candidates={candidates!r}."
        )
    for name, quantizer in candidates.items():
        if not isinstance(quantizer, quantizers.Quantizer) or name == _FULL_PRECISION:
            raise ValueError(
                "`candidates` must map names to quantizers, and full precision is always one. "
                f"Received: {name!r}: {quantizer!r}."
            )
    if isinstance(select, dict):
        raise ValueError(
            "`select` says which tensors are scanned, each with all candidates. Received: a dict. "
            "Pass its keys as a list."
        )
