"""A model to the bytes of its low-bit file: read, plan, write."""

import dataclasses
import zlib

import keras

from tf_proxquant.litert import inspecting, interface, metadata, write
from tf_proxquant.litert import plan as plans
from tf_proxquant.litert.check import timing
from tf_proxquant.litert.read import convert, flatbuffer, integer
from tf_proxquant.litert.read.weights import restore_grids
from tf_proxquant.litert.report import ALREADY, ExportReport, TensorRow
from tf_proxquant.litert.write import edges

MOVED_BACK = "moved back onto its grid by an ulp or two"
TIMED = "{:.2f} times the float latency, measured here on XNNPACK, one thread, batch 1"
TABLES_NOTE = (
    "tflite-micro alone reads weights in tables; the checks ran on the same file with the weights "
    "in 8 bits"
)
WAY_OUT = {
    "integers": (
        "Take io='float32': what lies between the layers then stays float where outputs suffer "
        "from integers."
    ),
    "static": (
        "Give representative data like those of its use, train a network that is not trained yet, "
        "take unroll=False for recurrent layers, or profile='dynamic', which rounds less."
    ),
}
MAX_TRIALS = 6


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A file that is not written yet.

    Attributes:
      content: its bytes.
      checked: bytes of the file to verify in its place, which stores the same weights in a form
        that LiteRT reads; most often `content` itself.
      float_content: bytes of the float file it was made from.
      model: the `keras.Model`, or None.
      weights: dict {(subgraph, tensor index): float32 values to find there}.
      settings: `plan.Profile`.
      report: `ExportReport` without path and errors.
      input_signature: that the float file was made with.
      way_out: what to try where its outputs are too far off; "" where nothing is known.
    """

    content: bytes
    checked: bytes
    float_content: bytes
    model: keras.Model | None
    weights: dict
    settings: plans.Profile
    report: ExportReport
    input_signature: list | None = None
    way_out: str = ""


def encode(
    model_or_path,
    profile,
    *,
    batch_size=None,
    input_signature=None,
    strip_names=None,
    max_slowdown=None,
    max_ulps=2,
    dense_bits=4,
    representative_data=None,
    io="float32",
    weights="int8",
    constants=None,
    labels=None,
    vocabulary=None,
    value_range=None,
):
    """Reads, plans and encodes; see `export` for the arguments. Returns: `Encoded`."""
    settings = plans.get(profile, constants)
    request = plans.Request(profile, max_slowdown, dense_bits, io, weights)
    if isinstance(max_ulps, bool) or not isinstance(max_ulps, int) or max_ulps < 0:
        raise ValueError(f"max_ulps must be an integer of at least 0. Received: {max_ulps!r}")
    source = convert.load(model_or_path)
    if settings.is_integer:
        integer.check_data(representative_data)
    signature = {"batch_size": batch_size, "input_signature": input_signature}
    float_content, remarks = _to_float(source, **signature)
    said = {"labels": labels, "vocabulary": vocabulary, "value_range": value_range}
    metadata.check(float_content, **said)
    already = _stored_already(source, settings)
    if any("static" in row.form or "direct" in row.form for row in already):
        # Kernel sets round such activations differently.
        settings = dataclasses.replace(settings, error_limit=plans.get("static").error_limit)
    base, moved_back = restore_grids(float_content, max_ulps)
    if settings.is_integer:
        request = dataclasses.replace(request, float_model=flatbuffer.Model(base))
        pixels = metadata.check_range(value_range)
        whole = io != edges.FLOAT
        base, more_remarks = integer.to_integer(base, representative_data, pixels, whole)
        base = edges.set_type(base, io)
        remarks += more_remarks
    names = settings.names if strip_names is None else not strip_names
    content, plan, found = _write_plan(base, settings, request, names)
    planned = {change.weight.name for change in plan.changes if change.form}
    rows = [
        TensorRow.of_change(change, MOVED_BACK if change.weight.key in moved_back else "")
        for change in plan.changes
    ]
    checked = content
    if weights == "tables":
        weight_names = {change.weight.name for change in plan.changes}
        content = write.tables.apply(content, weight_names, names)
    in_tables = () if content is checked else (TABLES_NOTE,)
    content = _with_metadata(content, said, None if strip_names else source)
    inputs, outputs, _ = interface.describe(flatbuffer.Model(content), content)
    report = ExportReport(
        path="",
        profile=profile,
        bytes=len(content),
        float_bytes=len(float_content),
        gzip_bytes=len(zlib.compress(content, 6)),
        rows=(*rows, *(row for row in already if row.name not in planned)),
        notes=(*remarks, *plan.notes, *in_tables),
        inputs=inputs,
        outputs=outputs,
    )
    model = None if isinstance(source, bytes) else source
    return Encoded(
        content, checked, float_content, model, found, settings, report, input_signature,
        WAY_OUT.get("integers" if io != edges.FLOAT else profile, ""),
    )  # fmt: skip


def _stored_already(source, settings):
    """Rows of the weights that a .tflite source does not hold as float32: they stay as they are.

    Raises: ValueError: where the profile needs all of them in float32.
    """
    if not isinstance(source, bytes):
        return []
    rows = inspecting.rows_of(flatbuffer.Model(source), len(source))
    already = [dataclasses.replace(row, reason=ALREADY) for row in rows if row.form != "float32"]
    if already and settings.is_integer:
        raise ValueError(
            "profile='static' needs a source of float32. Received: a .tflite in which "
            f"{len(already)} weight tensors are stored as {already[0].form} or alike. Export the "
            "Keras model, or its float .tflite."
        )
    return already


def _with_metadata(content, said, source):
    """The file with what it shall say of itself, and with what a .tflite source said."""
    said = {name: value for name, value in said.items() if value is not None}
    if not isinstance(source, bytes):
        return metadata.attach(content, **said) if said else content
    if not said:
        return metadata.carry(content, source)
    before = metadata.said_by(source)
    if "value_range" in said:
        before.pop("normalization", None)
    return metadata.attach(content, **{**before, **said})


def _to_float(source, **signature):
    """(bytes of the float file, notes) of a model, or of a file that is one already."""
    if isinstance(source, bytes):
        given = {name: value for name, value in signature.items() if value is not None}
        if given:
            raise ValueError(
                f"{' and '.join(f'`{name}`' for name in given)}: for a Keras model only. A .tflite "
                f"file keeps its shapes: leave that out, or export the model. Received: {given}"
            )
        return source, ()
    convert.check_variables(source)
    return convert.convert(source, **signature)


def _write_plan(base, settings, request, names):
    """(bytes of the new file, its plan, the weights to find in it) of the bytes of a file.

    A plan knows no clock. Where the user asks for a latency, files are timed against `base`, and
    planned anew with less to spend until one keeps to it.
    """
    asked = request.max_slowdown
    for _ in range(MAX_TRIALS):
        model = flatbuffer.Model(base)
        plan = settings.plan(model, request)
        content, weights = write.apply(model, plan.changes, names)
        if asked is None or request.is_unlimited or request.max_slowdown == 1:
            break
        slowdown = timing.confirmed_slowdown(content, base, asked)
        plan = dataclasses.replace(plan, notes=(*plan.notes, TIMED.format(slowdown)))
        if slowdown <= asked:
            break
        share = 0.9 * (asked - 1) / (slowdown - 1)
        request = dataclasses.replace(request, max_slowdown=1 + share * (request.max_slowdown - 1))
    return content, plan, weights
