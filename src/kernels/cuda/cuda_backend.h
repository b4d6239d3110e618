#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/matrix.h"
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
/// Context::stream for the CUDA back end: every op of that context is queued on it, in order. Opens cuBLASLt,
/// too. Throws `device`. Let one stream of a device run `indexer_prepare` by tuned kernels at a time: blocks
/// of its projection wait for one another, and those of two launches might keep each other from the device.
std::shared_ptr<cuda::Stream> make_cuda_stream(CudaOptions options = {});
/// Device memory that a stream takes when it is made and holds to its end, beside its context's arena.
size_t device_bytes(const cuda::Stream& stream);
/// Waits until everything queued has run, and throws `device` if something of it failed.
void synchronize(cuda::Stream& stream);

// For `fulgur bench`.

/// Captures queue(0) .. queue(calls - 1) into one graph and replays it: microseconds a call of each replay,
/// by events on the device. queue(0) runs once before, so that nothing is allocated or chosen in the capture.
std::vector<double> time_replays(cuda::Stream& stream, int calls, int replays,
                                 const std::function<void(int call)>& queue);
/// Queues a kernel that reads `bytes` (a multiple of 16) once, as fast as reading goes: the honest floor of
/// what must read as much.
void queue_read(Context& context, const void* data, size_t bytes);
/// Queues the projections of indexer_prepare alone: [W_k; W_w] x, into f32 [num_tokens, dI + nI].
void queue_projection(Context& context, const IndexerPrepare& op, const Operand& projected);
/// Whether kernels made for its shape take the op (CudaOptions::tuned).
bool has_tuned_kernels(const IndexerPrepare& op);
bool has_tuned_kernels(const IndexerSelect& op);

}  // namespace fulgur
