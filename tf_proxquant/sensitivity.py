"""How much each layer minds being quantized, and a mixed precision for a size budget."""

import contextlib
import functools
import math
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, get_args

import keras
from keras import ops

from tf_proxquant import quantizers, selection
from tf_proxquant.checks import check_flag, check_number, evaluation_data
from tf_proxquant.typing import Profile, Select

_FULL_PRECISION = "full precision"

# A metric of which Keras knows no direction is better when it is lower if one of these is among
# the words of its name, such as "error" of "top_5_error".
_LOWER_IS_BETTER = {
    "loss", "error", "perplexity", "entropy", "crossentropy", "divergence", "logcosh", "cosh",
    "hinge", "poisson", "false", "distance", "mae", "mape", "wape", "mse", "msle", "rmse", "nll",
    "err", "errors", "wer", "cer", "ppl", "bpc", "bpb",
}  # fmt: skip


class Candidate(NamedTuple):
    """One tensor at one precision, all others in full precision.

    Attributes:
      path: of the variable, without the name of the model; several of one path, which no pattern
        can tell apart, are scanned as one.
      name: of the candidate; "full precision" for the tensor as it is.
      quantizer: `Quantizer`, None for full precision.
      bytes: of its codes, ceil(log2(number of levels)) bits each; scales and headers not counted.
      value: the model's metric.
      drop: what the metric lost, > 0 for worse; NaN where it is no number, which `suggest` takes
        for the worst.
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
      profile: of the export that a budget is for; None for that of the codes alone.
      higher_is_better: whether the metric is better when it is higher; None where nobody said.
    """

    def __init__(
        self,
        metric: str,
        rows: list[Candidate],
        measure: Callable[[dict], int] | None = None,
        profile: str | None = None,
        higher_is_better: bool | None = None,
    ):
        self.metric, self.rows, self.profile, self._measure = metric, rows, profile, measure
        self.higher_is_better = higher_is_better

    def suggest(self, max_bytes: float) -> dict:
        """Chooses a precision for each tensor so that the exported file fits into a budget.

        Starts from the candidate with the smallest drop for each tensor, then takes again and again
        the exchange that costs least drop for each byte it saves, until the file of the scan's
        profile, made of the snapped weights, is small enough. The drops are taken to add up, which
        they do only roughly, and training afterwards wins most of them back: it is a place to
        start, not an optimum.

        Args:
          max_bytes: number > 0, bytes of the .tflite file; of the codes of all scanned tensors
            where the scan had no profile.

        Returns: dict from regex to quantizer (None for full precision), for `select=`.
        Raises: ValueError: if the smallest candidates together do not fit, with what they take.
        """
        budget = check_number("max_bytes", max_bytes)
        if self._measure is None:
            return self._within(budget, max_bytes)
        smallest = self._select(self._smallest())
        least = self._measure(smallest)
        if least > budget:
            raise ValueError(
                f"No choice of candidates fits. Received: max_bytes={max_bytes}. With the smallest "
                f'ones the file of profile="{self.profile}" takes {least:,} bytes. Add candidates '
                "of fewer bits, or raise the budget."
            )
        left, fewest = budget, sum(row.bytes for row in self._smallest().values())
        while left > fewest:
            select = self._within(left, max_bytes)
            size = self._measure(select)
            if size <= budget:
                return select
            left -= max(size - budget, 0.02 * budget)
        return smallest

    def _choices(self):
        choices = {}
        for row in self.rows:
            choices.setdefault(row.path, []).append(row)
        return choices

    def _smallest(self):
        return {p: min(r, key=lambda row: row.bytes) for p, r in self._choices().items()}

    @staticmethod
    def _select(chosen):
        return {_pattern(path, chosen): row.quantizer for path, row in chosen.items()}

    def _within(self, budget, max_bytes):
        """The choice whose codes take at most `budget` bytes."""
        chosen = {path: min(rows, key=_cost) for path, rows in self._choices().items()}
        smallest = sum(row.bytes for row in self._smallest().values())
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
        return self._select(chosen)

    def __str__(self):
        names = list(dict.fromkeys(row.name for row in self.rows))
        drops = {(row.path, row.name): row.drop for row in self.rows}
        paths = list(dict.fromkeys(row.path for row in self.rows))
        width = max(len(path) for path in paths)
        columns = [max(8, len(name)) for name in names]
        full = next(row.value for row in self.rows if row.quantizer is None)
        better = {True: " (higher is better)", False: " (lower is better)", None: ""}
        lines = [
            f"{self.metric} in full precision {full:.4f}{better[self.higher_is_better]}; what it "
            "loses with one tensor snapped:"
        ]
        header = "  ".join(f"{name:>{size}}" for name, size in zip(names, columns, strict=True))
        lines.append(f"{'':<{width}}  {header}")
        for path in paths:
            cells = (
                f"{_shown(drops[path, name]):>{size}}"
                for name, size in zip(names, columns, strict=True)
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
    profile: Profile | None = "small",
    batch_size: int | None = None,
    higher_is_better: bool | None = None,
) -> Sensitivity:
    """Evaluates a trained model with one tensor snapped at a time.

    The weights are put back bit for bit after each evaluation, also after an exception. Costs
    1 + tensors x candidates evaluations.

    Args:
      model: a built and compiled `keras.Model`, trained in full precision.
      data: what `model.evaluate` takes as its first argument and can read many times, or a tuple
        (x, y) or (x, y, sample_weight). Part of the training data or held-out data, not the test
        set, if the result is to choose a precision.
      candidates: dict from a name to a quantizer. None = binary, ternary, 2 and 4 bits, all per
        output channel, and 8 bits.
      select: which variables, as of `ProxQuant` but not a dict. None = every kernel and table.
      metric: name of a metric of `evaluate`; None = "accuracy" where there is one, else "loss".
      max_bytes: number; also prints the table and `suggest(max_bytes)`. None prints nothing.
      profile: of the export whose file must fit into `max_bytes`; not "static", which needs data.
        Each try converts the model, some seconds. None counts the codes alone, which needs no
        TensorFlow.
      batch_size: int, for arrays; None takes Keras' default.
      higher_is_better: whether the metric is better when it is higher. None: as Keras knows of its
        own metrics; of others lower is better if a word of the name is "loss", "error",
        "perplexity", "mae" or alike, else higher. The table says which.

    Returns: `Sensitivity`.
    Raises: ValueError: for a model that is not built or compiled, data that can be read only once,
      an unknown metric or profile, candidates that are no quantizers, and as `selection.resolve`.
    """
    _check_model(model)
    _check_data(data)
    _check_profile(profile)
    candidates = default_candidates() if candidates is None else candidates
    _check_candidates(candidates, select)
    if higher_is_better is not None:
        check_flag("higher_is_better", higher_is_better)
    arguments = evaluation_data(data, model)

    def evaluate():
        return model.evaluate(**arguments, batch_size=batch_size, verbose=0, return_dict=True)

    results = evaluate()
    metric = metric or ("accuracy" if "accuracy" in results else "loss")
    if metric not in results:
        raise ValueError(
            f"The model has no such metric. Received: metric={metric!r}. Expected one of "
            f"{sorted(results)}."
        )
    if not math.isfinite(results[metric]):
        raise ValueError(
            "The metric must be a number in full precision. Received: "
            f"{metric}={results[metric]}. Look for a diverged training, or take another metric."
        )
    if higher_is_better is None:
        higher_is_better = _is_higher_better(model, metric)
    sign = -1 if higher_is_better else 1
    rows = _scan(model, candidates, select, metric, float(results[metric]), evaluate, sign)
    measure = functools.partial(_file_bytes, model, profile) if profile else None
    found = Sensitivity(metric, rows, measure, profile, higher_is_better)
    if max_bytes is not None:
        print(found)
        print(f"select= for {max_bytes:,} bytes:")
        for pattern, quantizer in found.suggest(max_bytes).items():
            print(f"  {pattern!r}: {quantizer!r},")
    return found


def _is_higher_better(model, name):
    """Whether a figure of `evaluate` is better when it is higher.

    Its name is that of a metric behind that of an output, and a number where there are several.
    """
    outputs = getattr(model, "output_names", None) or ()
    prefixes = [f"{output}_" for output in outputs] if len(outputs) > 1 else []
    prefix = max((p for p in prefixes if name.startswith(p)), key=len, default="")
    own = name.removeprefix(prefix)
    for metric in (m for each in model.metrics for m in getattr(each, "metrics", [each])):
        if own != "loss" and re.fullmatch(rf"(weighted_)?{re.escape(metric.name)}(_\d+)?", own):
            direction = getattr(metric, "_direction", None)  # which Keras' callbacks go by, too
            if direction is not None:
                return direction == "up"
            if isinstance(metric, keras.metrics.FalseNegatives | keras.metrics.FalsePositives):
                return False
    return not _LOWER_IS_BETTER.intersection(re.split(r"[\W_]+", own.lower()))


def _scan(model, candidates, select, metric, full, evaluate, sign):
    """The `Candidate` rows of all selected tensors; `sign` is that of a metric for the worse."""
    resolved = {
        name: selection.resolve(select, quantizer, model.trainable_variables)
        for name, quantizer in candidates.items()
    }
    places: dict = {}
    variables = [variable for variable, _ in next(iter(resolved.values()))]
    for place, variable in enumerate(variables):
        path = selection.path(variable).removeprefix(f"{model.name}/")
        places.setdefault(path, []).append(place)
    rows = []
    for path, same in places.items():
        size = sum(math.prod(variables[place].shape) for place in same)
        rows.append(Candidate(path, _FULL_PRECISION, None, 4 * size, full, 0.0))
        for name, given in candidates.items():
            # Along the output channels of its layer.
            pairs = [resolved[name][place] for place in same]
            num_bytes = sum(math.ceil(_bits(v, q) / 8) for v, q in pairs)
            with _snapped(pairs):
                value = float(evaluate()[metric])
            rows.append(Candidate(path, name, given, num_bytes, value, sign * (value - full)))
    return rows


def _bits(variable, quantizer):
    """Bits of the codes of a variable."""
    levels = quantizer.levels(variable).shape[-1]
    return math.prod(variable.shape) * math.ceil(math.log2(levels))


def _pattern(path, paths):
    """A regex that finds this path and none of the others that end with it."""
    longer = [other for other in paths if other.endswith(f"/{path}")]
    others = "".join(f"(?<!{re.escape(other.removesuffix(path))})" for other in longer)
    return f"(^|/){others}{re.escape(path)}$"


def default_candidates() -> dict:
    """Binary to 8 bits, a dict from a name to a quantizer."""
    return {
        "binary": quantizers.Binary("mean", axis=-1),
        "ternary": quantizers.Ternary(axis=-1),
        "2 bits": quantizers.Uniform(2, axis=-1, mid_rise=True),
        "4 bits": quantizers.Uniform(4, axis=-1),
        "8 bits": quantizers.Uniform(8, axis=-1),
    }


@contextlib.contextmanager
def _snapped(pairs):
    """Context in which variables lie on their grids."""
    before = [ops.copy(variable) for variable, _ in pairs]
    try:
        for variable, quantizer in pairs:
            variable.assign(quantizer(variable))
        yield
    finally:
        for (variable, _), value in zip(pairs, before, strict=True):
            variable.assign(value)


def _file_bytes(model, profile, select):
    """Bytes of the file that `export` would write with these weights snapped."""
    select = {pattern: quantizer for pattern, quantizer in select.items() if quantizer is not None}
    pairs = selection.resolve(select, None, model.trainable_variables) if select else []
    from tf_proxquant import litert  # which training does not need

    with _snapped(pairs):
        return litert.preview(model, profile).bytes


def _shown(drop):
    """A drop as text, without the minus of what is rounded to zero."""
    return f"{round(drop, 4) + 0.0:.4f}"


def _loss(row):
    """What a candidate costs: nothing where it is better, all where the metric is no number."""
    return math.inf if math.isnan(row.drop) else max(0.0, row.drop)


def _cost(row):
    return _loss(row), row.bytes


def _price(row, now):
    """Drop for each byte saved; a candidate that is smaller and no worse comes first."""
    if math.isinf(_loss(row)):
        return math.inf
    return (_loss(row) - _loss(now)) / (now.bytes - row.bytes)


def _check_model(model):
    if not getattr(model, "built", False) or not getattr(model, "compiled", False):
        raise ValueError(
            "`sensitivity` needs a model that is built and compiled with its metrics. "
            f"Received: {model!r}. Call `model.compile(loss=..., metrics=[...])` first."
        )


def _check_data(data):
    if isinstance(data, Iterator):
        raise ValueError(
            "`sensitivity` reads its data once for each tensor and candidate. Received: "
            f"{type(data).__name__}, which can be read once. Pass arrays, a tf.data.Dataset or a "
            "keras.utils.PyDataset."
        )


def _check_profile(profile):
    profiles = [each for each in get_args(Profile) if each != "static"]
    if profile not in (None, *profiles):
        why = ", which needs representative data" if profile == "static" else ""
        raise ValueError(
            f"`profile` must be one of {profiles}, or None. Received: profile={profile!r}{why}."
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
