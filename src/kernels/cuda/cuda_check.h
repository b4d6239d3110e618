#pragma once

#include <cuda_runtime.h>

namespace fulgur::cuda {

/// Throws `device` for any status but success: one sentence that names the call and the runtime's reason.
/// `call` is "cudaMemcpy", or "the kernel sparse_mla" of a launch.
void check(cudaError_t status, const char* call);

/// The same for a library's own status; `reason` names it ("CUBLAS_STATUS_NOT_SUPPORTED").
[[noreturn]] void fail(const char* call, const char* reason);

}  // namespace fulgur::cuda
