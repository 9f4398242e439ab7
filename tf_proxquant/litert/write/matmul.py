"""Convolutions as matrix products over weights that are decoded at load time.

XNNPACK decodes constants ahead of time only if they are int8, and its CONV_2D takes only constant
filters, so a convolution over narrower weights falls to a kernel that is several times slower. Its
BATCH_MATMUL takes any right operand. A convolution becomes

    PAD -> RESHAPE (n, pixels, channels) -> GATHER -> RESHAPE (n, positions, K) -> BATCH_MATMUL
        -> ADD bias -> RESHAPE

where GATHER collects the K = height x width x channels values under the kernel at each position,
and the right operand is the weights, decoded by the interpreter. The indices are a sum of two small
constants, so they take no room in the file.
"""

import dataclasses

import numpy as np
from ai_edge_litert.schema_py_generated import (
    AddOptionsT,
    BatchMatMulOptionsT,
    BuiltinOperator,
    GatherOptionsT,
    Padding,
    PadOptionsT,
    TensorType,
)

from tf_proxquant.litert.read import flatbuffer, weights
from tf_proxquant.litert.write.writer import Decoder


@dataclasses.dataclass(frozen=True)
class Convolution:
    """A CONV_2D that can become a matrix product.

    Attributes:
      graph: number of the subgraph.
      index: index of its weight tensor.
      name: of the weights.
      weights: float32 (outputs, height, width, channels).
      size: (height, width) of the input.
      positions: (height, width) of the output.
      strides: (vertical, horizontal).
      dilations: (vertical, horizontal).
      padding: ((top, bottom), (left, right)).
    """

    graph: int
    index: int
    name: str
    weights: np.ndarray
    size: tuple[int, int]
    positions: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]

    @property
    def matrix(self):
        """The weights as (outputs, K)."""
        return self.weights.reshape(len(self.weights), -1)

    @property
    def num_positions(self):
        return self.positions[0] * self.positions[1]

    @property
    def is_pointwise(self):
        """Whether the input already is the left operand."""
        return self.weights.shape[1:3] == (1, 1) and self.strides == (1, 1)

    @property
    def num_rows(self):
        """Rows of channels that are gathered."""
        cells = self.weights.shape[1] * self.weights.shape[2]
        return 0 if self.is_pointwise else self.num_positions * cells


def find_convolutions(model):
    """Every CONV_2D that a matrix product can replace, in running order.

    It has weights of its own, a bias, no groups, and an input of fixed height and width.
    """
    own = {w.key: w for w in weights.find_weights(model) if len(w.consumers) == 1}
    found = []
    for number, graph in enumerate(model.subgraphs):
        for operator in graph.operators:
            if model.operator_name(operator) == "CONV_2D":
                source = graph.tensors[operator.inputs[0]]
                weight = own.get((number, int(operator.inputs[1])))
                has_bias = len(operator.inputs) == 3 and operator.inputs[2] >= 0
                if weight is None or not has_bias or not _is_fixed(source):
                    continue
                if weight.values.shape[3] == flatbuffer.tensor_shape(source)[3]:
                    found.append(_convolution(graph, operator, weight))
    return found


def _is_fixed(source):
    signature = source.shape if source.shapeSignature is None else source.shapeSignature
    return all(int(n) >= 0 for n in signature[1:])


def _convolution(graph, operator, weight):
    options = operator.builtinOptions
    size = flatbuffer.tensor_shape(graph.tensors[operator.inputs[0]])[1:3]
    positions = flatbuffer.tensor_shape(graph.tensors[operator.outputs[0]])[1:3]
    strides = options.strideH, options.strideW
    dilations = options.dilationHFactor, options.dilationWFactor
    padding = ((0, 0), (0, 0))
    if options.padding == Padding.SAME:
        padding = tuple(
            map(_same_padding, size, positions, strides, dilations, weight.values.shape[1:3])
        )
    return Convolution(
        graph=weight.graph,
        index=weight.index,
        name=weight.name,
        weights=weight.values,
        size=size,
        positions=positions,
        strides=strides,
        dilations=dilations,
        padding=padding,
    )


def _same_padding(size, positions, stride, dilation, kernel):
    total = max((positions - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


def replace(model, weight, form):
    """Puts a matrix product in the place of the convolution that reads `weight`.

    Returns: list of (subgraph, tensor index, values) to find in the file.
    """
    graph = model.subgraphs[weight.graph]
    operator = next(o for o in graph.operators if weight.index in o.inputs)
    convolution = _convolution(graph, operator, weight)
    matrix = convolution.matrix
    index = model.add_tensor(graph, matrix.shape, TensorType.FLOAT32, matrix)
    decoder = Decoder(model, graph, index, weight.name)
    form.matrix.write(decoder)
    _multiply(decoder, convolution, operator)
    decoder.replace(operator)
    return [(weight.graph, index, matrix)]


def _multiply(writer, convolution, operator):
    source, _, bias = map(int, operator.inputs)
    (outputs, depth), positions = convolution.matrix.shape, convolution.num_positions
    if not convolution.is_pointwise:
        source = _gather(writer, convolution, source)
    left = _reshape(writer, source, (positions, depth))
    shape = (1, positions, outputs)
    product = writer.apply(
        BuiltinOperator.BATCH_MATMUL, [left, writer.index], shape, BatchMatMulOptionsT(adjY=True)
    )
    options = AddOptionsT(fusedActivationFunction=operator.builtinOptions.fusedActivationFunction)
    result = writer.apply(BuiltinOperator.ADD, [product, bias], shape, options)
    _reshape(writer, result, (*convolution.positions, outputs), int(operator.outputs[0]))


def _gather(writer, convolution, source):
    """Collects (1, positions, kernel cells, channels) from (1, height, width, channels)."""
    channels = convolution.weights.shape[3]
    padding = np.array([(0, 0), *convolution.padding, (0, 0)], np.int32)
    height, width = (n + sum(p) for n, p in zip(convolution.size, convolution.padding, strict=True))
    if padding.any():
        inputs = [source, writer.shared(padding)]
        shape = (1, height, width, channels)
        source = writer.apply(BuiltinOperator.PAD, inputs, shape, PadOptionsT())
    source = _reshape(writer, source, (height * width, channels))
    cells = convolution.weights.shape[1] * convolution.weights.shape[2]
    shape = (1, convolution.num_positions, cells, channels)
    inputs = [source, _indices(writer, convolution, width)]
    return writer.apply(BuiltinOperator.GATHER, inputs, shape, GatherOptionsT(axis=1))


def _indices(writer, convolution, width):
    """Pixel under each kernel cell (columns) at each position (rows), added at run time."""
    corners = writer.shared(_grid(convolution.positions, convolution.strides, width)[:, None])
    sizes = convolution.weights.shape[1:3]
    cells = writer.shared(_grid(sizes, convolution.dilations, width)[None, :])
    for operator in writer.graph.operators:
        if list(operator.inputs) == [corners, cells]:
            return int(operator.outputs[0])  # of an earlier convolution of this geometry
    shape = (convolution.num_positions, sizes[0] * sizes[1])
    inputs, options = [corners, cells], AddOptionsT()
    return writer.apply(BuiltinOperator.ADD, inputs, shape, options, type_=TensorType.INT32)


def _reshape(writer, source, shape, output=None):
    """Reshapes to (batch, *shape); the batch stays open."""
    return writer.reshape(source, (1, *shape), (-1, *shape), output=output)


def _grid(counts, steps, width):
    """Flat pixel offsets of a grid of `counts` points, `steps` apart, in rows of `width`."""
    rows, columns = (step * np.arange(count) for count, step in zip(counts, steps, strict=True))
    return (rows[:, None] * width + columns).reshape(-1).astype(np.int32)
