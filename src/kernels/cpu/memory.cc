#include "kernels/cpu/memory.h"

#include <cstdlib>
#include <cstring>
#include <new>

namespace fulgur::cpu {
namespace {

constexpr size_t kAlignment = 64;

}  // namespace

void* allocate(size_t bytes) {
  void* data = std::aligned_alloc(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment);
  if (data == nullptr && bytes != 0) throw std::bad_alloc();
  return data;
}

void release(void* data) { std::free(data); }

void copy(void* to, const void* from, size_t bytes) { std::memcpy(to, from, bytes); }

}  // namespace fulgur::cpu
