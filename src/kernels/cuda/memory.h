#pragma once

#include <cstddef>

namespace fulgur::cuda {

// The memory of the CUDA back end (ops/backend.h). Copies wait for everything that is queued on the device,
// and are done when they return.
void* allocate(size_t bytes);
void release(void* data);
void upload(void* to, const void* from_host, size_t bytes);
void download(void* to_host, const void* from, size_t bytes);

}  // namespace fulgur::cuda
