#pragma once

// How the benches of tuned kernels measure: a graph of calls, replayed; and the two bounds of every kernel,
// an empty launch and a read.

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <vector>

#include "cuda/device_array.h"

namespace fulgur::cuda_test {

constexpr int kReplays = 21;

struct Timing {
  double median_us;
  double least_us;
  double most_us;
};

/// `call(i, stream)` queues call i.
inline Timing time_calls(int calls, const std::function<void(int, cudaStream_t)>& call) {
  cudaStream_t stream;
  must(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
  call(0, stream);
  must(cudaStreamSynchronize(stream), "first call");
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
  for (int i = 0; i < calls; ++i) call(i, stream);
  must(cudaStreamEndCapture(stream, &graph), "capture");
  must(cudaGraphInstantiate(&executable, graph, 0), "instantiate");
  cudaEvent_t begin;
  cudaEvent_t end;
  must(cudaEventCreate(&begin), "event");
  must(cudaEventCreate(&end), "event");
  std::vector<double> us;
  for (int replay = 0; replay < kReplays + 2; ++replay) {
    must(cudaEventRecord(begin, stream), "record");
    must(cudaGraphLaunch(executable, stream), "launch");
    must(cudaEventRecord(end, stream), "record");
    must(cudaEventSynchronize(end), "replay");
    float ms = 0;
    must(cudaEventElapsedTime(&ms, begin, end), "elapsed");
    if (replay >= 2) us.push_back(ms * 1000.0 / calls);
  }
  std::sort(us.begin(), us.end());
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  cudaStreamDestroy(stream);
  return {us[us.size() / 2], us.front(), us.back()};
}

static __global__ void empty_kernel() {
  asm volatile("griddepcontrol.launch_dependents;");
  asm volatile("griddepcontrol.wait;" ::: "memory");
}
/// Reads `pieces` of 16 bytes, four in flight a thread, before or after the predecessor's end.
static __global__ void __launch_bounds__(512)
    read_kernel(const uint4* from, int pieces, bool early, uint32_t* sink) {
  constexpr int kInFlight = 4;
  asm volatile("griddepcontrol.launch_dependents;");
  if (!early) asm volatile("griddepcontrol.wait;" ::: "memory");
  uint32_t sum = 0;
  const auto threads = static_cast<int>(gridDim.x * blockDim.x);
  for (int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x); i < pieces;
       i += kInFlight * threads) {
    uint4 v[kInFlight] = {};
#pragma unroll
    for (int k = 0; k < kInFlight; ++k)
      if (i + k * threads < pieces)
        asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(v[k].x), "=r"(v[k].y), "=r"(v[k].z), "=r"(v[k].w)
                     : "l"(from + i + k * threads));
#pragma unroll
    for (const uint4& x : v) sum += x.x ^ x.y ^ x.z ^ x.w;
  }
  asm volatile("griddepcontrol.wait;" ::: "memory");
  if (sum == 0x12345678U) *sink = sum;
}
template <typename... Params, typename... Args>
void launch_pdl(void (*kernel)(Params...), int blocks, int threads, cudaStream_t stream, bool pdl,
                Args... args) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = pdl ? 1 : 0;
  must(cudaLaunchKernelEx(&config, kernel, args...), "launch");
}

}  // namespace fulgur::cuda_test
