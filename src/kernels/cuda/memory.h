#pragma once

#include <cstddef>
#include <memory>

namespace fulgur::cuda {

// The memory of the CUDA back end (ops/backend.h). Copies wait for everything that is queued on the device,
// and are done when they return.
void* allocate(size_t bytes);
void release(void* data);
void upload(void* to, const void* from_host, size_t bytes);
void download(void* to_host, const void* from, size_t bytes);

struct ReleaseDeviceMemory {
  void operator()(void* data) const { release(data); }
};
/// From allocate().
using DeviceMemory = std::unique_ptr<void, ReleaseDeviceMemory>;

}  // namespace fulgur::cuda
