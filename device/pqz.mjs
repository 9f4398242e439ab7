// Expands .pqz archives of .tflite files in a browser or Node, without dependencies. docs/archive.md
// describes the format.

const HEADER_SIZE = 44;
const MAX_RATIO = 128;
const MIN_DIGITS = 64;

/**
 * Returns the bytes of the .tflite file that an archive was made from.
 * @param {ArrayBuffer|Uint8Array} archive
 * @param {number} maxBytes Larger files are refused.
 * @return {Promise<Uint8Array>}
 * @throws {Error} if the archive is damaged or its file too large.
 */
export async function expand(archive, maxBytes = 2 ** 31 - 1) {
  const data = archive instanceof Uint8Array ? archive : new Uint8Array(archive);
  demand(data.length >= HEADER_SIZE && int32(data, 0) === 0x015a5150, "no header");
  const most = Math.min(maxBytes, MAX_RATIO * data.length);
  const streams = [];
  let at = HEADER_SIZE;
  for (let i = 0; i < 4; i++) {
    const inflated = int32(data, 12 + 8 * i), deflated = int32(data, 16 + 8 * i);
    demand(inflated <= most && deflated <= data.length - at, "a length is too large");
    streams.push(new Stream(await inflate(data.subarray(at, at + deflated), inflated)));
    at += deflated;
  }
  const size = int32(data, 4);
  const floats = streams[2].bytes.length;
  demand(at === data.length && size <= most && floats % 4 === 0, "a length is wrong");
  const file = join(streams, size);
  demand(streams.every(({at, bytes}) => at === bytes.length), "bytes are left");
  demand(crc32(file) === int32(data, 8), "the checksum differs");
  return file;
}

function join([plan, plain, floats, digits], size) {
  const file = new Uint8Array(size);
  for (let out = 0, end; out < size; out = end) {
    const segment = plan.take(5);
    const kind = segment[0], count = int32(segment, 1);
    const least = kind < 2 ? 1 : MIN_DIGITS;
    demand(count >= least && count <= size - out, "a segment is too short or too long");
    end = out + count;
    const target = file.subarray(out, end);
    if (kind === 0) target.set(plain.take(count));
    else if (kind === 1) floats.copyFloats(target);
    else digits.copyDigits(plan, kind, target);
  }
  return file;
}

class Stream {
  constructor(bytes) {
    this.bytes = bytes;
    this.at = 0;
  }

  take(count) {
    demand(count <= this.bytes.length - this.at, "a stream is too short");
    this.at += count;
    return this.bytes.subarray(this.at - count, this.at);
  }

  /** The stream holds four planes: the first bytes of all floats, then the second ones, ... */
  copyFloats(target) {
    const first = this.at, quarter = this.bytes.length / 4;
    this.take(target.length);
    for (let i = 0; i < target.length; i++) {
      const place = first + i;
      target[i] = this.bytes[(place % 4) * quarter + Math.floor(place / 4)];
    }
  }

  copyDigits(plan, kind, target) {
    const base = kind & 127, size = kind & 128 ? 4 : 1; // bytes that a digit stands for
    demand(base > 1 && target.length % size === 0, "digits of an impossible base");
    let width = 0, reach = 1; // bytes of the file in a byte of the stream, base ^ digits
    for (; reach * base <= 256; width += size) reach *= base;
    const values = plan.take(base * size);
    const packed = this.take(Math.ceil(target.length / width));
    packed.forEach((byte, i) => {
      demand(byte < reach, "a byte stands for no digits");
      const end = Math.min(width * (i + 1), target.length);
      for (let out = width * i; out < end; out += size, byte = Math.floor(byte / base)) {
        for (let k = 0; k < size; k++) target[out + k] = values[(byte % base) * size + k];
      }
    });
  }
}

async function inflate(deflated, size) {
  const bytes = new Uint8Array(size);
  const inflater = new Blob([deflated]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  const reader = inflater.getReader();
  try {
    let end = 0;
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      demand(part.value.length <= size - end, "a stream is longer than declared");
      bytes.set(part.value, end);
      end += part.value.length;
    }
    demand(end === size, "a stream is shorter than declared");
  } catch (error) {
    reader.cancel().catch(() => {});
    throw error;
  }
  return bytes;
}

const CRC_TABLE = Uint32Array.from({length: 256}, (_, n) => {
  for (let i = 0; i < 8; i++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

function crc32(bytes) {
  let crc = -1;
  for (const byte of bytes) crc = CRC_TABLE[(crc ^ byte) & 255] ^ (crc >>> 8);
  return (crc ^ -1) >>> 0;
}

function int32(bytes, at) {
  return (bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16) | (bytes[at + 3] << 24)) >>> 0;
}

function demand(condition, what) {
  if (!condition) throw new Error(`Not a usable .pqz archive: ${what}`);
}
