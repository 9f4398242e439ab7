"""The one writer of operators: the new ones of a graph, and the constants that they read."""

import numpy as np
from ai_edge_litert.schema_py_generated import BuiltinOperator, ReshapeOptionsT, TensorType

from tf_proxquant import packing
from tf_proxquant.litert.read import flatbuffer

INTEGER_TYPES = {8: TensorType.INT8, 4: TensorType.INT4, 2: TensorType.INT2}
# The operator versions that read these types: an older runtime refuses the file.
DEQUANTIZE_VERSIONS = {8: 5, 4: 6, 2: 7}
# int8 codes with one scale for all.
PLAIN_DEQUANTIZE = 2
# Row i holds the bits of i as signs, the lowest first.
SIGN_ROWS = 2 * packing.unpack_codes(bytes(range(256)), 1, 2048).astype(np.int8).reshape(256, 8) - 1
SIGNS_NAME = b"tf_proxquant/signs"


class Writer:
    """Collects operators, to be put into a graph by `insert_before` or `replace`.

    Args:
      model: `flatbuffer.Model`.
      graph: the subgraph.
      name: of the constants that hold a weight.

    Attributes:
      operators: in order.
    """

    def __init__(self, model, graph, name=""):
        self.model, self.graph, self.name = model, graph, name.encode()
        self.operators = []

    def constant(self, data, type_=TensorType.FLOAT32, shape=None, quantization=None, name=b""):
        """Adds a constant tensor and returns its index."""
        data = np.atleast_1d(data)
        shape = data.shape if shape is None else shape
        return self.model.add_tensor(self.graph, shape, type_, data, name, quantization)

    def shared(self, values):
        """Index of an int32 constant, one for all operators of the graph that read such values."""
        values = np.atleast_1d(np.asarray(values, np.int32))
        for index, tensor in enumerate(self.graph.tensors):
            if tensor.type == TensorType.INT32 and flatbuffer.tensor_shape(tensor) == values.shape:
                data = self.model.constant(tensor)
                if data is not None and np.array_equal(data, values.reshape(-1).view(np.uint8)):
                    return index
        return self.constant(values, TensorType.INT32)

    def integers(self, codes, scales, bits, axis=None):
        """Adds a constant of signed `bits`-bit codes with its scales and returns its index."""
        data = codes if bits == 8 else packing.pack_codes(codes, bits)
        parameters = flatbuffer.quantization(scales, axis or 0)
        return self.constant(data, INTEGER_TYPES[bits], codes.shape, parameters, self.name)

    def apply(self, builtin, inputs, shape, options=None, *, version=1, type_=None, output=None):
        """Adds an operator and returns its output, a new tensor unless `output` is given.

        Args:
          builtin: a `schema.BuiltinOperator` code.
          inputs: tensor indices.
          shape: of the output, static.
          options: see `flatbuffer.Model.make_operator`.
          version: of the operator.
          type_: of the output, float32 by default.
          output: index of the tensor to write.
        """
        if output is None:
            type_ = TensorType.FLOAT32 if type_ is None else type_
            output = self.model.add_tensor(self.graph, shape, type_)
        self.operators.append(self.model.make_operator(builtin, version, inputs, [output], options))
        return output

    def dequantize(self, stored, bits, num_scales, shape, output=None):
        """Adds the operator that makes floats of codes."""
        is_plain = bits == 8 and num_scales == 1
        version = PLAIN_DEQUANTIZE if is_plain else DEQUANTIZE_VERSIONS[bits]
        return self.apply(
            BuiltinOperator.DEQUANTIZE, [stored], shape, version=version, output=output
        )

    def reshape(self, source, shape, target, type_=None, output=None):
        """`shape` is that of the tensor, `target` what the operator is given: -1 is open."""
        inputs, options = [source, self.shared(target)], ReshapeOptionsT()
        options.newShape = np.asarray(target, np.int32)  # tf2onnx reads this one
        return self.apply(
            BuiltinOperator.RESHAPE, inputs, shape, options, type_=type_, output=output
        )

    def signs(self):
        """Index of the graph's table of signs; its DEQUANTIZE goes first, whoever reads it then."""
        for index, tensor in enumerate(self.graph.tensors):
            if tensor.name == SIGNS_NAME:
                return index
        writer = Writer(self.model, self.graph)
        stored = writer.integers(SIGN_ROWS, 1.0, 2)
        table = self.model.add_tensor(
            self.graph, SIGN_ROWS.shape, TensorType.FLOAT32, name=SIGNS_NAME
        )
        writer.dequantize(stored, 2, 1, SIGN_ROWS.shape, output=table)
        self.graph.operators[:0] = writer.operators
        return table

    def insert_before(self, operator):
        """Puts the operators before `operator` of the graph."""
        place = self._place(operator)
        self.graph.operators[place:place] = self.operators

    def insert_after(self, operator):
        """Puts the operators behind `operator` of the graph."""
        place = self._place(operator) + 1
        self.graph.operators[place:place] = self.operators

    def replace(self, operator):
        """Puts the operators in the place of `operator`."""
        place = self._place(operator)
        self.graph.operators[place : place + 1] = self.operators

    def _place(self, operator):
        return next(i for i, other in enumerate(self.graph.operators) if other is operator)


class Decoder(Writer):
    """Writes the operators that decode one weight tensor, before its first reader.

    Args:
      model: `flatbuffer.Model`.
      graph: the subgraph of the tensor.
      index: of the tensor; the last operator writes it, so that its readers stay as they are.
      name: of the weight.
    """

    def __init__(self, model, graph, index, name):
        super().__init__(model, graph, name)
        self.index = index
        self.shape = flatbuffer.tensor_shape(graph.tensors[index])

    def finish(self, builtin, inputs, options=None, *, version=1):
        """Adds the last operator, whose output is the weight tensor itself."""
        self.graph.tensors[self.index].buffer = 0
        self.apply(builtin, inputs, self.shape, options, version=version, output=self.index)

    def finish_integers(self, stored, bits, num_scales):
        """Adds DEQUANTIZE as the last operator."""
        self.graph.tensors[self.index].buffer = 0
        self.dequantize(stored, bits, num_scales, self.shape, output=self.index)
