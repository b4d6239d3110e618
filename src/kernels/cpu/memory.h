#pragma once

#include <cstddef>

namespace fulgur::cpu {

// The memory of the CPU back end (ops/backend.h), the same for every instruction set.
void* allocate(size_t bytes);
void release(void* data);
void copy(void* to, const void* from, size_t bytes);

}  // namespace fulgur::cpu
