"""Dense layers over rows: a RESHAPE to two dimensions before, and one back behind."""

import numpy as np
from ai_edge_litert.schema_py_generated import TensorType

from tf_proxquant.litert.read import flatbuffer
from tf_proxquant.litert.write.writer import Writer


def flatten(model, graph, operator, sizes):
    """Lets a dense layer read and write (rows, channels), where it has more dimensions.

    A layer with several open dimensions is left as it is: no RESHAPE brings them back.

    Args:
      model: `flatbuffer.Model`.
      graph: the subgraph.
      operator: any; others than FULLY_CONNECTED are left as they are.
      sizes: (outputs, inputs) of the layer.
    """
    if model.operator_name(operator) != "FULLY_CONNECTED":
        return
    source, output = (graph.tensors[int(i)] for i in (operator.inputs[0], operator.outputs[0]))
    shape, target = flatbuffer.tensor_shape(output), _signature(output)
    num_open = sum(size < 0 for size in target)
    if len(flatbuffer.tensor_shape(source)) == len(shape) == 2 or num_open > 1:
        return
    num_outputs, num_inputs = sizes
    num_rows = int(np.prod(shape)) // num_outputs
    before, after = Writer(model, graph), Writer(model, graph)
    rows = before.reshape(
        int(operator.inputs[0]),
        (num_rows, num_inputs),
        (-1 if num_open else num_rows, num_inputs),
    )
    results = model.add_tensor(graph, (num_rows, num_outputs), TensorType.FLOAT32)
    if num_open:
        for index, size in ((rows, num_inputs), (results, num_outputs)):
            graph.tensors[index].shapeSignature = np.array([-1, size], np.int32)
    after.reshape(results, shape, target, output=int(operator.outputs[0]))
    before.insert_before(operator)
    after.insert_after(operator)
    operator.inputs[0], operator.outputs[0] = rows, results
    operator.builtinOptions.keepNumDims = False


def _signature(tensor):
    """The shape of a tensor, -1 where it is open."""
    sizes = tensor.shapeSignature
    return flatbuffer.tensor_shape(tensor) if sizes is None else tuple(int(n) for n in sizes)
