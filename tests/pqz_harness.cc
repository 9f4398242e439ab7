// Reads archives from standard input, each as a 32-bit length and its bytes, and answers each with
// "refused" or the length and CRC-32 of the file it expands to. With an argument N: expands the
// first archive N times and prints the microseconds of each time.
#include "pqz.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>

int main(int argc, char** argv) {
  uint8_t prefix[4];
  while (std::fread(prefix, 1, 4, stdin) == 4) {
    pqz::Bytes archive(pqz::Load32(prefix));
    if (std::fread(archive.data(), 1, archive.size(), stdin) != archive.size()) return 2;
    for (int n = argc > 1 ? std::atoi(argv[1]) : 0; n > 0; --n) {
      const auto start = std::chrono::steady_clock::now();
      if (!pqz::Expand(archive.data(), archive.size())) return 1;
      const std::chrono::duration<double, std::micro> time = std::chrono::steady_clock::now() - start;
      std::printf("%.0f\n", time.count());
    }
    if (argc > 1) return 0;
    const auto file = pqz::Expand(archive.data(), archive.size());
    if (!file) std::puts("refused");
    else
      std::printf("%zu %08lx\n", file->size(),
                  crc32(0, file->data(), static_cast<uInt>(file->size())));
  }
  return 0;
}
