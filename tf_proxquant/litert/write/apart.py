"""Activations of transposed convolutions as operators of their own, for readers that miss them."""

from ai_edge_litert.schema_py_generated import (
    ActivationFunctionType,
    BuiltinOperator,
    TensorType,
)

from tf_proxquant.litert.read import flatbuffer
from tf_proxquant.litert.write.writer import Writer

ACTIVATIONS = {
    ActivationFunctionType.RELU: BuiltinOperator.RELU,
    ActivationFunctionType.RELU6: BuiltinOperator.RELU6,
    ActivationFunctionType.RELU_N1_TO_1: BuiltinOperator.RELU_N1_TO_1,
}
# The version of TRANSPOSE_CONV that first reads a bias; an activation is of the next one.
BIAS_VERSION = 3


def separate(model):
    """Puts the activation of each float TRANSPOSE_CONV behind it.

    OpenVINO 2026.4 leaves out a fused one, without a word. XNNPACK fuses the two again.

    Args:
      model: `flatbuffer.Model`, edited in place.
    """
    for graph in model.subgraphs:
        for operator in list(graph.operators):
            if model.operator_name(operator) != "TRANSPOSE_CONV":
                continue
            activation = ACTIVATIONS.get(operator.builtinOptions.fusedActivationFunction)
            output = int(operator.outputs[0])
            if activation is not None and graph.tensors[output].type == TensorType.FLOAT32:
                _separate(model, graph, operator, activation, output)


def _separate(model, graph, operator, activation, output):
    tensor = graph.tensors[output]
    inner = model.add_tensor(graph, flatbuffer.tensor_shape(tensor), TensorType.FLOAT32)
    graph.tensors[inner].shapeSignature = tensor.shapeSignature
    operator.builtinOptions.fusedActivationFunction = ActivationFunctionType.NONE
    operator.opcodeIndex = model.opcode_index(BuiltinOperator.TRANSPOSE_CONV, BIAS_VERSION)
    operator.outputs[0] = inner
    writer = Writer(model, graph)
    writer.apply(activation, [inner], None, output=output)
    writer.insert_after(operator)
