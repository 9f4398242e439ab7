// Expands .pqz archives of .tflite files: C++17 and zlib, no exceptions. See docs/archive.md.
#pragma once
#include <zlib.h>
#include <cstdint>
#include <cstring>
#include <optional>
#include <vector>

namespace pqz {
using Bytes = std::vector<uint8_t>;
inline uint32_t Load32(const uint8_t* p) {
  return p[0] | p[1] << 8 | p[2] << 16 | static_cast<uint32_t>(p[3]) << 24;
}

struct Stream {
  Bytes bytes;
  size_t at = 0;

  const uint8_t* Take(size_t count) {  // nullptr past the end
    return count > bytes.size() - at ? nullptr : bytes.data() + (at += count) - count;
  }
  bool Inflate(const uint8_t* data, uint32_t size, size_t inflated) {
    bytes.resize(inflated + 1);  // the spare byte shows a stream that is longer than declared
    z_stream z = {};
    z.next_in = const_cast<uint8_t*>(data);
    z.avail_in = size;
    z.next_out = bytes.data();
    z.avail_out = static_cast<uInt>(bytes.size());
    if (inflateInit2(&z, -MAX_WBITS) != Z_OK) return false;
    const bool ended = inflate(&z, Z_FINISH) == Z_STREAM_END;
    inflateEnd(&z);
    bytes.resize(inflated);
    return ended && z.avail_in == 0 && z.avail_out == 1;
  }
  bool PutBytes(uint8_t* out, size_t count) {
    const uint8_t* source = Take(count);
    return source && std::memcpy(out, source, count);
  }
  bool PutFloats(uint8_t* out, size_t count) {
    const size_t first = at, quarter = bytes.size() / 4;
    if (!Take(count)) return false;
    for (size_t i = first; i < at; ++i) *out++ = bytes[i % 4 * quarter + i / 4];
    return true;
  }
  bool PutDigits(Stream* plan, unsigned kind, uint8_t* out, size_t count) {
    const unsigned base = kind & 127, size = kind & 128 ? 4 : 1;  // bytes that a digit stands for
    const uint8_t* values = plan->Take(base * size);
    if (!values || base < 2 || count < 64 || count % size) return false;
    unsigned width = 0, reach = 1;  // bytes of the file in a byte, base^digits
    for (; reach * base <= 256; width += size) reach *= base;
    const uint8_t* packed = Take(count / width + (count % width != 0));
    if (!packed) return false;
    uint8_t table[256][32] = {};
    for (unsigned byte = 0; byte < reach; ++byte)
      for (unsigned i = 0, n = byte; i < width; i += size, n /= base)
        std::memcpy(table[byte] + i, values + n % base * size, size);
    for (size_t step; count; ++packed, out += step, count -= step) {
      step = count < width ? count : width;
      if (*packed >= reach) return false;
      std::memcpy(out, table[*packed], count >= 32 ? 32 : step);  // few moves, then rewritten
    }
    return true;
  }
};

// Returns nothing if the archive is damaged or its file is larger than max_bytes.
inline std::optional<Bytes> Expand(const uint8_t* data, size_t size, size_t max_bytes = INT32_MAX) {
  size_t at = 44;
  if (size < at || std::memcmp(data, "PQZ\1", 4) != 0) return std::nullopt;
  const uint64_t most = max_bytes / 128 < size ? max_bytes : uint64_t{128} * size;
  Stream streams[4];
  for (int i = 0; i < 4; ++i) {
    const uint32_t inflated = Load32(data + 12 + 8 * i), deflated = Load32(data + 16 + 8 * i);
    const bool fits = inflated <= most && deflated <= size - at;
    if (!fits || !streams[i].Inflate(data + at, deflated, inflated)) return std::nullopt;
    at += deflated;
  }
  auto& [plan, plain, floats, digits] = streams;
  size_t left = Load32(data + 4);
  if (at != size || left > most || floats.bytes.size() % 4) return std::nullopt;
  Bytes file(left);
  for (uint8_t* out = file.data(); left;) {
    const uint8_t* segment = plan.Take(5);
    const uint32_t count = segment ? Load32(segment + 1) : 0;
    if (count == 0 || count > left) return std::nullopt;
    if (!(*segment == 0   ? plain.PutBytes(out, count)
          : *segment == 1 ? floats.PutFloats(out, count)
                          : digits.PutDigits(&plan, *segment, out, count)))
      return std::nullopt;
    out += count;
    left -= count;
  }
  for (const Stream& stream : streams)
    if (stream.at != stream.bytes.size()) return std::nullopt;
  const auto checksum = crc32(0, file.data(), static_cast<uInt>(file.size()));
  if (checksum != Load32(data + 8)) return std::nullopt;
  return file;
}
}  // namespace pqz
