// Timing by replays of a captured graph.

#include <algorithm>

#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/stream.h"

namespace fulgur {
namespace cuda {
namespace {

class Graph {
 public:
  Graph(Stream& stream, int calls, const std::function<void(int)>& queue) {
    check(cudaStreamBeginCapture(stream.main(), cudaStreamCaptureModeRelaxed), "cudaStreamBeginCapture");
    cudaGraph_t graph = nullptr;
    try {
      for (int call = 0; call < calls; ++call) queue(call);
    } catch (...) {
      static_cast<void>(cudaStreamEndCapture(stream.main(), &graph));
      static_cast<void>(cudaGraphDestroy(graph));
      throw;
    }
    check(cudaStreamEndCapture(stream.main(), &graph), "cudaStreamEndCapture");
    const cudaError_t status = cudaGraphInstantiate(&executable_, graph, 0);
    static_cast<void>(cudaGraphDestroy(graph));
    check(status, "cudaGraphInstantiate");
  }
  ~Graph() { static_cast<void>(cudaGraphExecDestroy(executable_)); }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  void launch(Stream& stream) const { check(cudaGraphLaunch(executable_, stream.main()), "cudaGraphLaunch"); }

 private:
  cudaGraphExec_t executable_ = nullptr;
};

class Event {
 public:
  Event() { check(cudaEventCreate(&event_), "cudaEventCreate"); }
  ~Event() { static_cast<void>(cudaEventDestroy(event_)); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  void record(Stream& stream) { check(cudaEventRecord(event_, stream.main()), "cudaEventRecord"); }
  [[nodiscard]] double microseconds_until(const Event& end) const {
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, event_, end.event_), "cudaEventElapsedTime");
    return milliseconds * 1e3;
  }

 private:
  cudaEvent_t event_ = nullptr;
};

}  // namespace
}  // namespace cuda

std::vector<double> time_replays(cuda::Stream& stream, int calls, int replays,
                                 const std::function<void(int call)>& queue) {
  constexpr int kWarmUps = 3;
  queue(0);
  synchronize(stream);
  const cuda::Graph graph(stream, calls, queue);
  for (int i = 0; i < kWarmUps; ++i) graph.launch(stream);
  cuda::Event begin;
  cuda::Event end;
  std::vector<double> times;
  for (int i = 0; i < replays; ++i) {
    begin.record(stream);
    graph.launch(stream);
    end.record(stream);
    synchronize(stream);
    times.push_back(begin.microseconds_until(end) / calls);
  }
  return times;
}

}  // namespace fulgur
