// The weights in the bytes of a .tflite file: a reader of the few tables that they need.
//
// Field numbers are those of LiteRT's schema.fbs, version 3. It reads int8 and float32, in files of
// one's own: out of bounds it throws a RangeError.

const MODEL = {subgraphs: 2, buffers: 4};
const SUBGRAPH = {tensors: 0, operators: 3};
const OPERATOR = {inputs: 1};
const TENSOR = {shape: 0, type: 1, buffer: 2, name: 3, quantization: 4};
const QUANTIZATION = {scale: 2, axis: 6};
const FLOAT32 = 0, INT8 = 9;

/**
 * Decodes what is stored with two or more dimensions.
 * @param {Uint8Array} file
 * @return {{name: string, shape: number[], isFloat: boolean, bytes: number, values: Float32Array}[]}
 *     In the order in which operators read them; `bytes` are those of codes and scales.
 */
export function readWeights(file) {
  const reader = new Reader(file);
  const model = reader.follow(0);
  const buffers = reader.tables(model, MODEL.buffers);
  return reader.tables(model, MODEL.subgraphs).flatMap((graph) => {
    const tensors = reader.tables(graph, SUBGRAPH.tensors);
    const operators = reader.tables(graph, SUBGRAPH.operators);
    const read = operators.flatMap((each) => reader.numbers(each, OPERATOR.inputs, "Int32"));
    return [...new Set(read)]
      .filter((index) => index >= 0) // -1 stands for an input that is left out
      .map((index) => readTensor(reader, tensors[index], buffers))
      .filter((weight) => weight !== null);
  });
}

function readTensor(reader, tensor, buffers) {
  const shape = reader.numbers(tensor, TENSOR.shape, "Int32");
  const type = reader.scalar(tensor, TENSOR.type, "Int8");
  const data = reader.vector(buffers[reader.scalar(tensor, TENSOR.buffer, "Uint32")], 0);
  const count = shape.reduce((product, n) => product * n, 1);
  const isFloat = type === FLOAT32;
  if (shape.length < 2 || count < 2 || data.count === 0 || !(isFloat || type === INT8)) return null;
  const name = new TextDecoder().decode(reader.bytes(tensor, TENSOR.name));
  const values = new Float32Array(count);
  if (isFloat) {
    for (let i = 0; i < count; i++) values[i] = reader.view.getFloat32(data.start + 4 * i, true);
    return {name, shape, isFloat, bytes: 4 * count, values};
  }
  const quantization = reader.child(tensor, TENSOR.quantization);
  const scales = quantization ? reader.numbers(quantization, QUANTIZATION.scale, "Float32") : [1];
  const axis = quantization ? reader.scalar(quantization, QUANTIZATION.axis, "Int32") : 0;
  const inner = shape.slice(axis + 1).reduce((product, n) => product * n, 1);
  for (let i = 0; i < count; i++) {
    const channel = scales.length > 1 ? Math.floor(i / inner) % shape[axis] : 0;
    values[i] = scales[channel] * reader.view.getInt8(data.start + i);
  }
  return {name, shape, isFloat, bytes: count + 4 * scales.length, values};
}

/** Tables and vectors of a FlatBuffer; a table is the offset where it starts. */
class Reader {
  constructor(file) {
    this.file = file;
    this.view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  }

  follow(at) {
    return at + this.view.getUint32(at, true);
  }

  /** Offset of a field, 0 where it is absent. */
  field(table, number) {
    const vtable = table - this.view.getInt32(table, true);
    const slot = 4 + 2 * number;
    if (slot >= this.view.getUint16(vtable, true)) return 0;
    const offset = this.view.getUint16(vtable + slot, true);
    return offset && table + offset;
  }

  scalar(table, number, type) {
    const at = this.field(table, number);
    return at ? this.view[`get${type}`](at, true) : 0;
  }

  child(table, number) {
    const at = this.field(table, number);
    return at && this.follow(at);
  }

  vector(table, number) {
    const start = this.child(table, number);
    return start ? {start: start + 4, count: this.view.getUint32(start, true)} : {start: 0, count: 0};
  }

  numbers(table, number, type) {
    const {start, count} = this.vector(table, number);
    return Array.from({length: count}, (_, i) => this.view[`get${type}`](start + 4 * i, true));
  }

  bytes(table, number) {
    const {start, count} = this.vector(table, number);
    return this.file.subarray(start, start + count);
  }

  tables(table, number) {
    const {start, count} = this.vector(table, number);
    return Array.from({length: count}, (_, i) => this.follow(start + 4 * i));
  }
}
