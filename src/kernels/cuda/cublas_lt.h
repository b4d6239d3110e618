#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <memory>

#include "base/matrix.h"
#include "base/weight.h"
#include "kernels/cuda/memory.h"

namespace fulgur::cuda {

/// Whether CublasLt::multiply takes these: x and w bf16, y f32, all of them 16-byte aligned in every row.
bool cublas_takes(const Operand& x, const Weight& w, const Operand& y);

/// cuBLASLt for dense products of bf16. The library is opened with dlopen, not linked: the program has to
/// start where there is no CUDA, and the static library is larger than the rest of Fulgur a hundred times.
class CublasLt {
 public:
  static constexpr size_t kWorkspaceBytes = size_t{32} << 20;  // what NVIDIA advises for Hopper
  static constexpr size_t kDeviceBytes = 2 * kWorkspaceBytes;  // taken by the constructor, and no more later
  CublasLt();  // throws `device` where the library isn't there
  ~CublasLt();
  CublasLt(const CublasLt&) = delete;
  CublasLt& operator=(const CublasLt&) = delete;

  /// y = x w^T in f32, queued. What is chosen for a shape is kept, so a shape's second call only queues. Two
  /// products may run at once, on the main and on the side stream: each has a workspace of its own.
  void multiply(cudaStream_t stream, bool on_side, const Operand& x, const Weight& w, const Operand& y);

 private:
  struct Library;
  struct Plan;
  struct Plans;
  const Plan& plan_for(const Operand& x, const Weight& w, const Operand& y);

  std::unique_ptr<Library> library_;
  std::unique_ptr<Plans> plans_;
  DeviceMemory workspaces_;  // kDeviceBytes
};

}  // namespace fulgur::cuda
