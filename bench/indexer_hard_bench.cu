// What hard scores cost the indexer's selection beside normal ones, by the method of docs/performance.md: at
// most twice the time, everywhere, or this exits with 1. PDL on, and keys read early.
//
//   cuda_hard_bench

#include <functional>
#include <string>

#include "graph_timing.cuh"
#include "select_batch.cuh"

namespace fulgur::cuda_test {
namespace {

using cuda::LaunchOptions;

constexpr double kMostRatio = 2;

constexpr Scores kKinds[] = {Scores::kNormal,    Scores::kConcentrated, Scores::kTies,       Scores::kZeros,
                             Scores::kAscending, Scores::kDescending,   Scores::kNeighbours, Scores::kRun};

/// A shape and its times, of the kinds in their order.
struct Row {
  std::string name;
  std::vector<double> us;
};

/// Prints the row; true if a kind is too slow.
bool is_too_slow(const Row& row) {
  std::printf("%-32s", row.name.c_str());
  double largest = 0;
  for (const double us : row.us) {
    std::printf(" %8.2f %5.2f", us, us / row.us[0]);
    largest = std::max(largest, us / row.us[0]);
  }
  std::printf("  %5.2f%s\n", largest, largest > kMostRatio ? " TOO SLOW" : "");
  std::fflush(stdout);
  return largest > kMostRatio;
}

double time_of(int calls, const std::function<cudaError_t(int, const LaunchOptions&)>& call) {
  LaunchOptions options;
  options.pdl = true;
  options.early_keys = true;
  const Timing timing = time_calls(calls, [&](int i, cudaStream_t stream) {
    options.stream = stream;
    must(call(i, options), "call");
  });
  return timing.median_us;
}

std::string shape_of(const char* what, int batch, int length) {
  return std::string(what) + " " + std::to_string(batch) + " x " + std::to_string(length / 1024) + "k";
}

std::vector<Row> topk_rows() {
  constexpr int kDifferentRows = 3;  // the host draws slowly
  constexpr int kBatches[] = {1, 2, 8, 32, 128};
  std::vector<Row> rows;
  for (const int length : {8192, 16384, 32768, 65536, 131072}) {
    const size_t first = rows.size();
    for (const int batch : kBatches) rows.push_back({shape_of("top-k", batch, length), {}});
    for (const Scores kind : kKinds) {
      const std::vector<float> different = drawn_scores(kDifferentRows, length, kind);
      for (size_t i = 0; i < std::size(kBatches); ++i) {
        const GivenScores scores(kBatches[i], length, different);
        rows[first + i].us.push_back(time_of(64, [&](int, const LaunchOptions& options) {
          return cuda::launch_topk(scores.arguments(), options);
        }));
      }
    }
  }
  return rows;
}

/// Decode and prompts, whose keys' scales are the scores.
std::vector<Row> indexer_rows(Pool& pool) {
  std::vector<Row> rows;
  size_t next = 0;
  const auto add = [&](const std::string& name, double us) {
    if (next == rows.size()) rows.push_back({name, {}});
    rows[next++].us.push_back(us);
  };
  const auto two_kernels = [&](int batch, int tokens, int context) {
    Batch data(pool, 64, batch, tokens, context);
    data.ask_for_scales();
    DeviceArray<float> scores(static_cast<size_t>(data.rows) * context);
    std::string name = shape_of("scores+top-k", batch, context);
    if (tokens > 1) name += ", " + std::to_string(tokens) + " tokens";
    add(name, time_of(data.calls, [&](int call, const LaunchOptions& options) {
          return launch_two_kernels(data.arguments(call), scores.get(), options);
        }));
  };
  for (const Scores kind : kKinds) {
    next = 0;
    pool.make_scores(kind, 8192);
    for (const int batch : {1, 2, 8, 32, 128}) {
      Batch data(pool, 64, batch, 1, 8192);
      data.ask_for_scales();
      add(shape_of("decode", batch, 8192), time_of(data.calls, [&](int call, const LaunchOptions& options) {
            return cuda::launch_decode(data.arguments(call), options);
          }));
    }
    for (const int tokens : {2, 3, 4}) {
      for (const int batch : {1, 2, 8, 32, 128}) two_kernels(batch, tokens, 8192);
    }
    Prompt prompt(pool, 64, 8192);
    prompt.data.ask_for_scales();
    add("prompt of 8192",
        time_of(8, [&](int, const LaunchOptions& options) { return prompt.launch(true, true, options); }));
    pool.make_scores(kind, 131072);
    for (const int batch : {1, 32}) two_kernels(batch, 1, 131072);
  }
  return rows;
}

int main_of() {
  if (no_gpu("No kernel was timed")) return 1;
  std::printf("us a call and ratio to normal scores%*s", -4, "");
  for (const Scores kind : kKinds) std::printf("%-11s", name_of(kind));
  std::printf("\n");
  int slow = 0;
  for (const Row& row : topk_rows()) slow += is_too_slow(row) ? 1 : 0;
  Pool pool(32 * 2048);  // sequences of 128k
  for (const Row& row : indexer_rows(pool)) slow += is_too_slow(row) ? 1 : 0;
  std::printf("%s: %d shapes take more than %.0f times as long as normal ones\n",
              slow == 0 ? "PASSED" : "FAILED", slow, kMostRatio);
  return slow == 0 ? 0 : 1;
}

}  // namespace
}  // namespace fulgur::cuda_test

int main() { return fulgur::cuda_test::main_of(); }
