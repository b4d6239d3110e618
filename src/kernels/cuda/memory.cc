#include "kernels/cuda/memory.h"

#include <fmt/format.h>

#include "base/error.h"
#include "kernels/cuda/cuda_check.h"

namespace fulgur::cuda {
namespace {

/// Streams of contexts don't wait for copies by themselves.
void copy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  check(cudaDeviceSynchronize(), "a queued kernel");
  check(cudaMemcpy(to, from, bytes, kind), "cudaMemcpy");
  check(cudaDeviceSynchronize(), "cudaMemcpy");
}

}  // namespace

void* allocate(size_t bytes) {
  void* data = nullptr;
  const cudaError_t status = cudaMalloc(&data, bytes);
  if (status == cudaErrorMemoryAllocation) {
    static_cast<void>(cudaGetLastError());
    size_t free = 0;
    size_t total = 0;
    check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
    throw Error(Problem{.kind = ErrorKind::kDevice,
                        .message = "The GPU has not enough free memory for this.",
                        .expected = fmt::format("{} bytes in one piece", bytes),
                        .found = fmt::format("{} of its {} bytes free", free, total),
                        .todo = "use a smaller context or model, or end other programs on the GPU"});
  }
  check(status, "cudaMalloc");
  return data;
}

void release(void* data) {
  static_cast<void>(cudaFree(data));  // called from destructors; what is wrong shows in the next call
}

void upload(void* to, const void* from_host, size_t bytes) {
  copy(to, from_host, bytes, cudaMemcpyHostToDevice);
}
void download(void* to_host, const void* from, size_t bytes) {
  copy(to_host, from, bytes, cudaMemcpyDeviceToHost);
}

}  // namespace fulgur::cuda
