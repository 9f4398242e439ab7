#include "expand.h"

#include <cstdlib>
#include <cstring>

#include "pqz.h"

unsigned char* pqz_expand(const unsigned char* archive, size_t archive_size, size_t* size) {
  const auto file = pqz::Expand(archive, archive_size);
  if (!file) return nullptr;
  auto* copy = static_cast<unsigned char*>(std::malloc(file->size() + 1));
  if (copy == nullptr) return nullptr;
  if (!file->empty()) std::memcpy(copy, file->data(), file->size());
  *size = file->size();
  return copy;
}
