#include <fmt/format.h>

#include "base/error.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/cuda_check.h"

namespace fulgur {
namespace cuda {

void fail(const char* call, const char* reason) {
  throw Error(ErrorKind::kDevice, fmt::format("On the GPU, {} failed: {}.", call, reason));
}

void check(cudaError_t status, const char* call) {
  if (status == cudaSuccess) return;
  static_cast<void>(cudaGetLastError());  // what isn't sticky is told once
  fail(call, fmt::format("{} ({})", cudaGetErrorString(status), cudaGetErrorName(status)).c_str());
}

}  // namespace cuda

CudaStatus cuda_status() {
  CudaStatus status{.built = true};
  int devices = 0;
  const cudaError_t counted = cudaGetDeviceCount(&devices);
  if (counted != cudaSuccess || devices == 0) {
    static_cast<void>(cudaGetLastError());
    const bool absent = counted == cudaSuccess || counted == cudaErrorNoDevice ||
                        counted == cudaErrorInsufficientDriver || counted == cudaErrorInitializationError;
    status.why_not = absent ? "There is no NVIDIA GPU with a driver for this build's CUDA."
                            : fmt::format("The GPU's driver answers: {}.", cudaGetErrorString(counted));
    return status;
  }
  cudaDeviceProp properties{};
  if (const cudaError_t asked = cudaGetDeviceProperties(&properties, 0); asked != cudaSuccess) {
    static_cast<void>(cudaGetLastError());
    status.why_not = fmt::format("The GPU's driver answers: {}.", cudaGetErrorString(asked));
    return status;
  }
  status.device =
      fmt::format("{}, {} multiprocessors, {:.1f} GiB", properties.name, properties.multiProcessorCount,
                  static_cast<double>(properties.totalGlobalMem) / (1 << 30));
  status.usable = properties.major == 9 && properties.minor == 0;
  if (!status.usable) {
    status.why_not = fmt::format("The kernels are for compute capability 9.0 (Hopper); this GPU has {}.{}.",
                                 properties.major, properties.minor);
  }
  return status;
}

}  // namespace fulgur
