// Times the tuned kernels of the indexer's selection by the method of docs/performance.md: a CUDA graph of 64
// calls and more, 21 replays after two, median and range of the time a call; pages in random order, each call
// with others of 200 MB and more, scores and activations warm; programmatic dependent launch off and on.
//
//   cuda_select_bench [FOLDER]      FOLDER: the table goes to select_bench.tsv there, too

#include <cstring>
#include <functional>
#include <string>

#include "graph_timing.cuh"
#include "kernels/cuda/indexer_launch.h"
#include "select_batch.cuh"

namespace fulgur::cuda_test {
namespace {

using cuda::LaunchOptions;

std::FILE* table = nullptr;
constexpr int kWarmCalls = 64;  // of a graph

void report(const std::string& name, double bytes, int calls,
            const std::function<cudaError_t(int, const LaunchOptions&)>& call, LaunchOptions options = {}) {
  const auto time = [&](bool pdl) {
    options.pdl = pdl;
    return time_calls(calls, [&](int i, cudaStream_t stream) {
      options.stream = stream;
      must(call(i, options), "call");
    });
  };
  const Timing off = time(false);
  const Timing on = time(true);
  const auto line = [&](std::FILE* to, const char* format) {
    std::fprintf(to, format, name.c_str(), off.median_us, off.least_us, off.most_us, on.median_us,
                 on.least_us, on.most_us, bytes / on.median_us / 1e6, on.mhz);
  };
  line(stdout, "%-46s off %8.2f (%.2f-%.2f)  pdl %8.2f (%.2f-%.2f)  %.2f TB/s  %.0f MHz\n");
  if (table != nullptr) {
    line(table, "%s\t%.3f\t%.3f\t%.3f\t%.3f\t%.3f\t%.3f\t%.3f\t%.0f\n");
    std::fflush(table);
  }
  std::fflush(stdout);
}

__global__ void empty_kernel() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

/// Reads [num_bytes] and writes nothing that matters: what any kernel of so many bytes pays.
__global__ void __launch_bounds__(512) read_kernel(const uint4* data, int64_t vectors, uint32_t* sink) {
  asm volatile("griddepcontrol.wait;" ::: "memory");
  uint4 sum = make_uint4(0, 0, 0, 0);
  const int64_t step = static_cast<int64_t>(gridDim.x) * 512;
#pragma unroll 8
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * 512 + threadIdx.x; i < vectors; i += step) {
    const uint4 v = data[i];
    sum.x ^= v.x ^ v.y ^ v.z ^ v.w;
  }
  if (sum.x == 0x12345678) *sink = 1;
}

std::string label(const char* kind, int batch, int tokens, int context, const char* more) {
  std::string text =
      std::string(kind) + " " + std::to_string(batch) + "x" + std::to_string(context / 1024) + "k";
  if (tokens > 1) text += " tokens " + std::to_string(tokens);
  return text + more;
}

LaunchOptions early() {
  LaunchOptions options;
  options.early_keys = true;
  return options;
}

void bench_limits(const Pool& pool) {
  report("empty kernel, 132 blocks", 0, kWarmCalls, [](int, const LaunchOptions& options) {
    return cuda::launch_clusters(empty_kernel, dim3(132), 1, 512, 0, options);
  });
  DeviceArray<uint32_t> sink(1);
  for (const double megabytes : {1.081, 8.65, 34.6, 138.4}) {
    const int64_t vectors = static_cast<int64_t>(megabytes * 1e6) / 16;
    const int64_t all = static_cast<int64_t>(pool.keys.size()) / 16;
    report("cold read of " + std::to_string(megabytes).substr(0, 5) + " MB", vectors * 16.0,
           calls_over(vectors * 16.0), [&](int call, const LaunchOptions& options) {
             const int64_t at = vectors * call % (all - vectors);
             return cuda::launch_clusters(read_kernel, dim3(132 * 3), 1, 512, 0, options,
                                          reinterpret_cast<const uint4*>(pool.keys.get()) + at, vectors,
                                          sink.get());
           });
  }
}

void bench_topk(int rows, int length) {
  constexpr int kDifferentRows = 4;  // the host draws slowly
  const GivenScores scores(rows, length,
                           drawn_scores(std::min(rows, kDifferentRows), length, Scores::kNormal));
  report(label("topk", rows, 1, length, " normal"), rows * 4.0 * length, kWarmCalls,
         [&](int, const LaunchOptions& options) { return cuda::launch_topk(scores.arguments(), options); });
}

void report_decode(const std::string& name, const Batch& data, const LaunchOptions& way) {
  report(
      name, data.bytes(), data.calls,
      [&](int call, const LaunchOptions& options) {
        return cuda::launch_decode(data.arguments(call), options);
      },
      way);
}

void bench_decode(const Pool& pool, int heads, int batch, int context,
                  const std::vector<LaunchOptions>& ways) {
  const Batch data(pool, heads, batch, 1, context);
  for (const LaunchOptions& way : ways) {
    std::string text = label("decode", batch, 1, context, "");
    if (heads != 64) text += ", heads " + std::to_string(heads);
    if (way.early_keys) text += ", early keys";
    report_decode(text, data, way);
  }
}

enum class Kernels { kScores, kTopk, kBoth };

void report_two_kernels(const std::string& name, const Batch& data, DeviceArray<float>& scores,
                        Kernels which = Kernels::kBoth) {
  report(
      name + ", early keys", which == Kernels::kTopk ? 0 : data.bytes(), data.calls,
      [&](int call, const LaunchOptions& options) {
        const cuda::DecodeArguments arguments = data.arguments(call);
        if (which == Kernels::kScores)
          return cuda::launch_row_scores(arguments, scores.get(), data.context, options);
        if (which == Kernels::kTopk)
          return cuda::launch_topk({scores.get(), data.context, arguments.scores.rows, arguments.out},
                                   options);
        return launch_two_kernels(arguments, scores.get(), options);
      },
      early());
}

void bench_two_kernels(const Pool& pool, int batch, int tokens, int context, bool scores_alone = false) {
  const Batch data(pool, 64, batch, tokens, context);
  DeviceArray<float> scores(static_cast<size_t>(data.rows) * context);
  if (scores_alone)
    report_two_kernels(label("row scores", batch, tokens, context, ""), data, scores, Kernels::kScores);
  report_two_kernels(label("row scores, then topk", batch, tokens, context, ""), data, scores);
}

/// Rows of lengths that are not alike, or below the launch's bound.
void bench_ragged(const Pool& pool) {
  constexpr int k = 1024;
  struct Part {
    int rows;
    int context;
  };
  struct Ragged {
    std::vector<Part> parts;
    int bound;
  };
  const Ragged all[] = {{{{1, 128 * k}, {127, 1 * k}}, 128 * k},
                        {{{1, 128 * k}, {127, 8 * k}}, 128 * k},
                        {{{1, 128 * k}, {31, 8 * k}}, 128 * k},
                        {{{1, 128 * k}, {7, 8 * k}}, 128 * k},
                        {{{4, 128 * k}, {124, 4 * k}}, 128 * k},
                        {{{16, 128 * k}, {112, 8 * k}}, 128 * k},
                        {{{1, 32 * k}, {127, 1 * k}}, 32 * k},
                        {{{1, 32 * k}, {127, 8 * k}}, 32 * k},
                        {{{64, 1 * k}, {64, 32 * k}}, 32 * k},
                        {{{1, 16 * k}, {127, 1 * k}}, 16 * k},
                        {{{1, 16 * k}, {65, 1 * k}}, 16 * k},
                        {{{1, 8 * k}, {127, 1 * k}}, 8 * k},
                        {{{299, 4 * k}, {1, 48 * k}}, 48 * k},
                        {{{300, 48 * k}}, 48 * k},
                        {{{1, 8 * k}}, 128 * k},
                        {{{8, 8 * k}}, 128 * k},
                        {{{32, 8 * k}}, 128 * k},
                        {{{128, 8 * k}}, 128 * k},
                        {{{128, 8 * k}}, 512 * k},
                        {{{128, 8 * k}}, 32 * k},
                        {{{128, 32 * k}}, 128 * k},
                        {{{32, 32 * k}}, 128 * k},
                        {{{1, 32 * k}}, 128 * k}};
  for (const Ragged& ragged : all) {
    std::vector<int> contexts;
    std::string name;
    for (const Part& part : ragged.parts) {
      contexts.insert(contexts.end(), part.rows, part.context);
      name += (name.empty() ? "" : " + ") + std::to_string(part.rows) + "x" +
              std::to_string(part.context / k) + "k";
    }
    name += " under " + std::to_string(ragged.bound / k) + "k, ";
    const Batch data(pool, 64, contexts, 1, ragged.bound);
    DeviceArray<float> scores(static_cast<size_t>(data.rows) * ragged.bound);
    if (ragged.bound <= 32 * k) report_decode(name + "decode", data, early());
    report_two_kernels(name + "row scores", data, scores, Kernels::kScores);
    report_two_kernels(name + "topk", data, scores, Kernels::kTopk);
    report_two_kernels(name + "row scores, then topk", data, scores);
  }
}

/// Sequences with unequal numbers of drafts.
void bench_unequal_drafts(const Pool& pool) {
  constexpr int kContext = 8192;
  constexpr int kSequences = 32;
  struct Unequal {
    const char* name;
    std::vector<int> tokens;  // by turns
    int first;                // the first sequence's; 0: as the others
  };
  for (const Unequal& unequal :
       {Unequal{"2 each, the first 1", {2}, 1}, Unequal{"4 each, the first 3", {4}, 3},
        Unequal{"4, 1 by turns", {4, 1}, 0}, Unequal{"1 to 4 by turns", {1, 2, 3, 4}, 0},
        Unequal{"1 each, the first 2", {1}, 2}}) {
    std::vector<int> tokens;
    for (int i = 0; i < kSequences; ++i) tokens.push_back(unequal.tokens[i % unequal.tokens.size()]);
    if (unequal.first > 0) tokens[0] = unequal.first;
    const Batch data(pool, 64, std::vector<int>(kSequences, kContext), tokens, kContext);
    DeviceArray<float> scores(static_cast<size_t>(data.rows) * kContext);
    report_two_kernels(std::string("row scores, then topk 32x8k tokens ") + unequal.name, data, scores);
    if (data.arguments(0).tokens_per_sequence == 1)
      report_decode(std::string("decode 32x8k tokens ") + unequal.name + ", early keys", data, early());
  }
}

void bench_prompt(const Pool& pool, int heads, int length) {
  const Prompt prompt(pool, heads, length);
  const std::string tail = std::to_string(length) + (heads == 64 ? "" : ", 32 heads");
  const auto part = [&](const std::string& name, bool scores, bool topk) {
    report(name + tail, 0, kWarmCalls,
           [&](int, const LaunchOptions& options) { return prompt.launch(scores, topk, options); });
  };
  if (heads == 64) {
    part("prompt scores ", true, false);
    part("prompt topk ", false, true);
  }
  part("prompt scores + topk ", true, true);
}

void bench_decode(const Pool& pool) {
  {
    const Batch data(pool, 64, 1, 1, 8192);
    for (const int cluster : {1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 16}) {
      std::printf("clusters of %d at once: %d\n", cluster,
                  cuda::decode_clusters_at_once(data.arguments(0), cluster));
    }
  }
  for (const int batch : {1, 2, 8, 32, 128}) bench_decode(pool, 64, batch, 8192, {LaunchOptions{}, early()});
  // What select_tuned.cc chooses between.
  const std::pair<int, std::vector<int>> contexts[] = {
      {4096, {67, 128, 132}},
      {8192, {1, 8, 16, 24, 32, 40, 45, 48, 60, 66, 67, 80, 96, 112, 128, 132, 133, 200}},
      {16384, {1, 4, 8, 16, 32, 48, 66, 67, 96, 128, 132, 133, 200}},
      {32768, {1, 4, 8, 16, 32, 48, 64, 66, 67, 96, 128, 132, 133, 200}},
      {65536, {1, 4, 8, 16, 32, 67, 128}},
      {131072, {1, 4, 8, 12, 16, 64, 128}}};
  for (const auto& [context, batches] : contexts) {
    for (const int batch : batches) {
      bench_decode(pool, 64, batch, context, {early()});
      bench_two_kernels(pool, batch, 1, context);
    }
  }
  for (const int batch : {1, 32, 128}) bench_two_kernels(pool, batch, 1, 131072, true);
  for (const int tokens : {2, 3, 4}) {
    for (const int context : {8192, 32768}) {
      for (const int batch : {1, 8, 32, 128}) bench_two_kernels(pool, batch, tokens, context);
    }
  }
  bench_unequal_drafts(pool);
  for (const int batch : {1, 8, 32, 128}) bench_decode(pool, 32, batch, 8192, {early()});
}

void bench_all() {
  cudaDeviceProp device{};
  must(cudaGetDeviceProperties(&device, 0), "device");
  std::printf("%s, %d multiprocessors, L2 %d MB\n", device.name, device.multiProcessorCount,
              device.l2CacheSize >> 20);
  for (const int rows : {1, 32, 128}) {
    for (const int length : {8192, 32768, 131072}) bench_topk(rows, length);
  }
  Pool pool(36 * 2048);  // sequences of 128k
  bench_limits(pool);
  bench_ragged(pool);
  bench_decode(pool);
  bench_prompt(pool, 64, 8192);
  bench_prompt(pool, 32, 8192);
}

}  // namespace
}  // namespace fulgur::cuda_test

int main(int argc, char** argv) {
  if (fulgur::cuda_test::no_gpu("No kernel was timed")) return 1;
  if (argc > 1)
    fulgur::cuda_test::table = std::fopen((std::string(argv[1]) + "/select_bench.tsv").c_str(), "w");
  fulgur::cuda_test::bench_all();
}
