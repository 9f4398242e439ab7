// The model: fetched as an archive, expanded, and run by LiteRT.js.

import {loadAndCompile, loadLiteRt, Tensor} from "@litertjs/core";

import {expand} from "./pqz.mjs";

/** A model with one input and one output. */
export class Model {
  /**
   * Loads the runtime and the model.
   * @param {string} archive Address of the .tflite.pqz file.
   * @param {string} runtime Address of the folder with the runtime's WebAssembly, with a slash.
   */
  static async load(archive, runtime) {
    const model = new Model();
    const [downloaded] = await Promise.all([download(archive), loadLiteRt(runtime)]);
    model.archiveBytes = downloaded.byteLength;
    model.file = await expand(downloaded);
    model.compiled = await loadAndCompile(model.file, {accelerator: "wasm"});
    model.shape = Array.from(model.compiled.getInputDetails()[0].shape);
    return model;
  }

  /**
   * @param {Float32Array} input As many values as the input of the file has.
   * @return {Promise<Float32Array>} What the file gives for it.
   */
  async run(input) {
    const tensor = new Tensor(input, this.shape);
    try {
      const outputs = await this.compiled.run(tensor);
      const scores = outputs[0].toTypedArray();
      for (const output of outputs) output.delete();
      return scores;
    } finally {
      tensor.delete();
    }
  }

  /** Milliseconds of one run: the smallest of a few means, for browsers' clocks are coarse. */
  async time(input, {means = 10, repetitions = 20} = {}) {
    let best = Infinity;
    await this.run(input);
    for (let i = 0; i < means; i++) {
      const start = performance.now();
      for (let k = 0; k < repetitions; k++) await this.run(input);
      best = Math.min(best, (performance.now() - start) / repetitions);
    }
    return best;
  }
}

/** The bytes at an address. */
export async function download(address) {
  const response = await fetch(address);
  if (!response.ok) throw new Error(`${address}: ${response.status} ${response.statusText}`);
  return response.arrayBuffer();
}
