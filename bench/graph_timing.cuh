#pragma once

// How the benches of tuned kernels measure: a graph of calls, replayed.

#include <cuda_runtime.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

#include "cuda/device_array.h"

namespace fulgur::cuda_test {

constexpr int kReplays = 21;

struct Timing {
  double median_us;
  double least_us;
  double most_us;
  double mhz;  // of the multiprocessors, right after: times of what stays on chip follow it
};

inline __global__ void read_clock(double* mhz) {
  constexpr uint64_t kNanoseconds = 100'000;
  const auto nanoseconds = [] {
    uint64_t time;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(time));
    return time;
  };
  const uint64_t begin = nanoseconds();
  const int64_t cycles = clock64();
  uint64_t took = 0;
  while (took < kNanoseconds) took = nanoseconds() - begin;
  *mhz = static_cast<double>(clock64() - cycles) / static_cast<double>(took) * 1000;
}

/// A card that has drawn its most power for a while runs slower: after such a series, the next one waits.
inline void rest_if_slow(double last_mhz) {
  constexpr double kFull = 0.97;
  constexpr std::chrono::milliseconds kRest{200};
  int khz = 0;
  must(cudaDeviceGetAttribute(&khz, cudaDevAttrClockRate, 0), "cudaDeviceGetAttribute");
  if (last_mhz < kFull * khz / 1000) std::this_thread::sleep_for(kRest);
}

/// `call(i, stream)` queues call i.
inline Timing time_calls(int calls, const std::function<void(int, cudaStream_t)>& call) {
  static double last_mhz = 0;
  rest_if_slow(last_mhz);
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
  DeviceArray<double> mhz(1);
  read_clock<<<1, 1, 0, stream>>>(mhz.get());
  must(cudaStreamSynchronize(stream), "clock");
  std::sort(us.begin(), us.end());
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  cudaStreamDestroy(stream);
  return {us[us.size() / 2], us.front(), us.back(), last_mhz = mhz.download().front()};
}

}  // namespace fulgur::cuda_test
