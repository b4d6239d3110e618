#pragma once

#include <memory>
#include <string>

#include "ops/backend.h"

namespace fulgur {

namespace cuda {
class Stream;
}

/// What this build and machine have of CUDA. `why_not` is a sentence where they can't run kernels.
struct CudaStatus {
  bool built = false;
  bool usable = false;
  std::string device;  // "NVIDIA H200, 132 multiprocessors, 139.8 GiB"
  std::string why_not;
};
/// Asks the driver; never throws for what it finds.
CudaStatus cuda_status();

/// The kernels for the first device; null if they aren't in this build. Their allocate() throws `device`
/// where cuda_status() isn't usable.
const Backend* cuda_backend();

/// How the ops of a Context run.
struct CudaOptions {
  bool pdl = true;    // programmatic dependent launch: a kernel starts while its predecessor ends
  bool tuned = true;  // kernels made for some shapes where they take a call; else those for any shape
};
/// Context::stream for the CUDA back end: every op of that context is queued on it, in order. Throws
/// `device`.
std::shared_ptr<cuda::Stream> make_cuda_stream(CudaOptions options = {});
/// Waits until everything queued has run, and throws `device` if something of it failed.
void synchronize(cuda::Stream& stream);

}  // namespace fulgur
