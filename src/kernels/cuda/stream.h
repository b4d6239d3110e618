#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <memory>
#include <type_traits>

#include "kernels/cuda/cublas_lt.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/indexer_tiles.h"
#include "kernels/cuda/memory.h"

namespace fulgur::cuda {

/// What the ops of one Context are queued on, and what they need beside it. An op queues and returns. Scratch
/// of the context's arena is reused in the stream's order, which is why an op joins its side stream before it
/// returns.
class Stream {
 public:
  explicit Stream(CudaOptions options);

  [[nodiscard]] cudaStream_t main() const { return main_.get(); }
  /// For what may run beside the main stream between fork() and join().
  [[nodiscard]] cudaStream_t side() const { return side_.get(); }
  /// The side stream waits for all that the main one holds so far.
  void fork();
  /// The main stream waits for all that the side one holds so far.
  void join();

  CublasLt& cublas_lt() { return cublas_lt_; }
  /// Device memory that it holds from its opening on: no op takes any but from its context's arena.
  static constexpr size_t kDeviceBytes = CublasLt::kDeviceBytes + kProjectBytes;
  /// Scratch of the own projection, which one launch leaves as the next one needs it
  /// (kernels/cuda/indexer_prepare_tuned.h).
  [[nodiscard]] uint32_t* projection_partials() const {
    return static_cast<uint32_t*>(projection_partials_.get());
  }

  [[nodiscard]] bool pdl() const { return options_.pdl; }
  [[nodiscard]] bool tuned() const { return options_.tuned; }
  [[nodiscard]] int num_multiprocessors() const { return num_multiprocessors_; }
  /// Whether all blocks of the own projection, which wait for one another, are on the device at once.
  [[nodiscard]] bool holds_projection() const { return holds_projection_; }

 private:
  // Nothing to do about a failure here; one that matters shows in the next call.
  struct Destroy {
    void operator()(cudaStream_t stream) const { static_cast<void>(cudaStreamDestroy(stream)); }
    void operator()(cudaEvent_t event) const { static_cast<void>(cudaEventDestroy(event)); }
  };
  using OwnedStream = std::unique_ptr<std::remove_pointer_t<cudaStream_t>, Destroy>;
  using OwnedEvent = std::unique_ptr<std::remove_pointer_t<cudaEvent_t>, Destroy>;
  static OwnedStream make_stream();
  static OwnedEvent make_event();

  CudaOptions options_;
  int num_multiprocessors_;
  bool holds_projection_;
  OwnedStream main_ = make_stream();
  OwnedStream side_ = make_stream();
  OwnedEvent forked_ = make_event();
  OwnedEvent joined_ = make_event();
  CublasLt cublas_lt_;
  DeviceMemory projection_partials_;
};

}  // namespace fulgur::cuda
