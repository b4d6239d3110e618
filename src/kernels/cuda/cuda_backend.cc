#include "kernels/cuda/cuda_backend.h"

#include "kernels/cuda/memory.h"

namespace fulgur {
namespace {

/// The ops of an indexer and attention step; the others are not made yet, and run() refuses them.
constexpr Backend kBackend = {
    .name = "cuda",
    .allocate = cuda::allocate,
    .release = cuda::release,
    .upload = cuda::upload,
    .download = cuda::download,
};

}  // namespace

const Backend* cuda_backend() { return &kBackend; }

}  // namespace fulgur
