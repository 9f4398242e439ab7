// The JavaScript twin of pqz_harness.cc: the same input, the same output.
import {readFileSync} from "node:fs";
import {crc32} from "node:zlib";
import {expand} from "../device/pqz.mjs";

const input = readFileSync(0);
for (let at = 0; at < input.length; ) {
  const start = at + 4;
  at = start + input.readUInt32LE(at);
  try {
    const file = await expand(input.subarray(start, at));
    console.log(file.length, crc32(file).toString(16).padStart(8, "0"));
  } catch (error) {
    if (error instanceof RangeError) throw error; // memory for a size that no archive has
    console.log("refused");
  }
}
