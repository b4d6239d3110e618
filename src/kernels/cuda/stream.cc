#include "kernels/cuda/stream.h"

#include "base/error.h"
#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/indexer_prepare_tuned.h"

namespace fulgur {
namespace cuda {

Stream::Stream(CudaOptions options) : options_(options) {
  check(cudaDeviceGetAttribute(&num_multiprocessors_, cudaDevAttrMultiProcessorCount, 0),
        "cudaDeviceGetAttribute");
  holds_projection_ = projection_fits_device();
  check(cudaStreamCreateWithFlags(&main_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  check(cudaStreamCreateWithFlags(&side_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  check(cudaEventCreateWithFlags(&forked_, cudaEventDisableTiming), "cudaEventCreateWithFlags");
  check(cudaEventCreateWithFlags(&joined_, cudaEventDisableTiming), "cudaEventCreateWithFlags");
  void* partials = nullptr;
  check(cudaMalloc(&partials, kProjectBytes), "cudaMalloc");
  projection_partials_ = static_cast<uint32_t*>(partials);
  check(cudaMemset(partials, 0xff, kProjectBytes), "cudaMemset");
  check(cudaDeviceSynchronize(), "cudaMemset");
}

Stream::~Stream() {
  // Nothing to do about a failure here; one that matters shows in the next call.
  static_cast<void>(cudaFree(projection_partials_));
  for (const cudaEvent_t event : {joined_, forked_}) static_cast<void>(cudaEventDestroy(event));
  for (const cudaStream_t stream : {side_, main_}) static_cast<void>(cudaStreamDestroy(stream));
}

void Stream::fork() {
  check(cudaEventRecord(forked_, main_), "cudaEventRecord");
  check(cudaStreamWaitEvent(side_, forked_), "cudaStreamWaitEvent");
}

void Stream::join() {
  check(cudaEventRecord(joined_, side_), "cudaEventRecord");
  check(cudaStreamWaitEvent(main_, joined_), "cudaStreamWaitEvent");
}

}  // namespace cuda

std::shared_ptr<cuda::Stream> make_cuda_stream(CudaOptions options) {
  if (const CudaStatus status = cuda_status(); !status.usable)
    throw Error(ErrorKind::kDevice, status.why_not);
  return std::make_shared<cuda::Stream>(options);
}

size_t device_bytes(const cuda::Stream&) { return cuda::Stream::kDeviceBytes; }

void synchronize(cuda::Stream& stream) {
  cuda::check(cudaStreamSynchronize(stream.main()), "a queued kernel");
}

}  // namespace fulgur
