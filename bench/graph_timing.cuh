#pragma once

// How the benches of tuned kernels measure: a graph of calls, replayed.

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

}  // namespace fulgur::cuda_test
