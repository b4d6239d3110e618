#include "kernels/cuda/stream_launch.h"
#include "ops/context.h"
#include "unit/ops/cuda_late.h"

namespace fulgur::test {
namespace {

constexpr int kThreads = 256;
constexpr unsigned kDelayNs = 20000;  // far longer than a kernel takes to start

__global__ void late_copy_kernel(std::byte* to, const std::byte* from, size_t bytes) {
  cuda::allow_successor();
  cuda::wait_for_predecessor();
  __nanosleep(kDelayNs);
  for (size_t i = threadIdx.x; i < bytes; i += kThreads) to[i] = from[i];
}

}  // namespace

void queue_late_copy(Context& context, std::byte* to, const std::byte* from, size_t bytes) {
  cuda::launch(*context.stream, "the kernel late_copy", {.blocks = dim3(1), .threads = kThreads},
               late_copy_kernel, to, from, bytes);
}

}  // namespace fulgur::test
