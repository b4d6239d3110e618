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

void synchronize(cuda::Stream&) {}

}  // namespace fulgur
