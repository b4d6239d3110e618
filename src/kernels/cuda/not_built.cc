// What stands for the CUDA back end in a build without it.

#include "base/error.h"
#include "kernels/cuda/cuda_backend.h"

namespace fulgur {
namespace {

constexpr const char* kNotBuilt = "This build has no CUDA back end.";

}  // namespace

CudaStatus cuda_status() { return {.why_not = kNotBuilt}; }

const Backend* cuda_backend() { return nullptr; }

std::shared_ptr<cuda::Stream> make_cuda_stream(CudaOptions) {
  throw Error(Problem{.kind = ErrorKind::kDevice,
                      .message = kNotBuilt,
                      .todo = "configure with -DFULGUR_CUDA=ON where nvcc is, or use the CPU"});
}

// Nobody has a stream to call these with.
size_t device_bytes(const cuda::Stream&) { return 0; }
void synchronize(cuda::Stream&) {}
std::vector<double> time_replays(cuda::Stream&, int, int, const std::function<void(int)>&) { return {}; }
void queue_read(Context&, const void*, size_t) {}
void queue_projection(Context&, const IndexerPrepare&, const Operand&) {}
bool has_tuned_kernels(const IndexerPrepare&) { return false; }
bool has_tuned_kernels(const IndexerSelect&) { return false; }

}  // namespace fulgur
