#include "kernels/cuda/stream.h"

#include "base/error.h"
#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/indexer_prepare_tuned.h"

namespace fulgur {
namespace cuda {

namespace {

int count_multiprocessors() {
  int count = 0;
  check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, 0), "cudaDeviceGetAttribute");
  return count;
}

}  // namespace

Stream::OwnedStream Stream::make_stream() {
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  return OwnedStream(stream);
}

Stream::OwnedEvent Stream::make_event() {
  cudaEvent_t event = nullptr;
  check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreateWithFlags");
  return OwnedEvent(event);
}

Stream::Stream(CudaOptions options)
    : options_(options),
      num_multiprocessors_(count_multiprocessors()),
      holds_projection_(projection_fits_device()),
      projection_partials_(allocate(kProjectBytes)) {
  check(cudaMemset(projection_partials_.get(), 0xff, kProjectBytes), "cudaMemset");
  check(cudaDeviceSynchronize(), "cudaMemset");
}

void Stream::fork() {
  check(cudaEventRecord(forked_.get(), main()), "cudaEventRecord");
  check(cudaStreamWaitEvent(side(), forked_.get()), "cudaStreamWaitEvent");
}

void Stream::join() {
  check(cudaEventRecord(joined_.get(), side()), "cudaEventRecord");
  check(cudaStreamWaitEvent(main(), joined_.get()), "cudaStreamWaitEvent");
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
