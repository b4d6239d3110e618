#include "kernels/cuda/cuda_backend.h"

#include "kernels/cuda/memory.h"
#include "kernels/cuda/ops.h"

namespace fulgur {
namespace {

/// The ops of an indexer and attention step; the others are not made yet, and run() refuses them.
constexpr Backend kBackend = {
    .name = "cuda",
    .fp8_keys = true,
    .later_start = true,
    .stack_bytes = 92 << 10,  // of the host's threads: not measured
    .allocate = cuda::allocate,
    .release = cuda::release,
    .upload = cuda::upload,
    .download = cuda::download,
    .least_index_scratch = cuda::least_index_scratch,
    .mla_prepare = cuda::mla_prepare,
    .indexer_prepare = cuda::indexer_prepare,
    .indexer_select = cuda::indexer_select,
    .indexer_scores = cuda::indexer_scores,
    .sparse_mla = cuda::sparse_mla,
    .dense_mla = cuda::dense_mla,
};

}  // namespace

const Backend* cuda_backend() { return &kBackend; }

}  // namespace fulgur
