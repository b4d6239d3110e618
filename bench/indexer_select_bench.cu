// Times the tuned kernels of the indexer's selection by the method of docs/performance.md: a CUDA graph of 64
// calls (few of the long ones), 21 replays after two, median and range of the time a call; pages in random
// order over more than 200 MB, scores and activations warm; programmatic dependent launch off and on. With a
// folder as argument, the table goes to select_bench.tsv there too.

#include <cstring>
#include <functional>
#include <string>

#include "cuda/select_setup.cuh"
#include "graph_timing.cuh"
#include "kernels/cuda/indexer_launch.h"

namespace fulgur::cuda_test {
namespace {

using cuda::IndexForm;
using cuda::LaunchOptions;

std::FILE* table = nullptr;

void report(const std::string& name, int calls, double bytes,
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
                 on.least_us, on.most_us, bytes / on.median_us / 1e6);
  };
  line(stdout, "%-46s off %8.2f (%.2f-%.2f)  pdl %8.2f (%.2f-%.2f)  %.2f TB/s\n");
  if (table != nullptr) {
    line(table, "%s\t%.3f\t%.3f\t%.3f\t%.3f\t%.3f\t%.3f\t%.3f\n");
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

/// The pool of pages and, for each call of a graph, page tables over the next part of it.
class Pool {
 public:
  Pool(IndexForm form, int num_pages)
      : form(form), num_pages_(num_pages), keys(static_cast<size_t>(num_pages) * cuda::page_bytes(form)) {
    fill_keys<<<2048, kDim>>>(keys.get(), num_pages, form, Codes::kReal);
    must(cudaDeviceSynchronize(), "fill");
    order_ = scattered(num_pages, 3);
  }

  /// [calls][sequences][pages of a sequence]
  [[nodiscard]] std::vector<int32_t> tables(int calls, int sequences, int pages) const {
    std::vector<int32_t> tables(static_cast<size_t>(calls) * sequences * pages);
    for (size_t i = 0; i < tables.size(); ++i) tables[i] = order_[i % num_pages_];
    return tables;
  }

  const IndexForm form;

 private:
  int num_pages_;
  std::vector<int32_t> order_;

 public:
  DeviceArray<uint8_t> keys;
};

/// `sequences` sequences of `context` keys with `tokens` new tokens each.
struct Batch {
  Batch(const Pool& pool, int heads, int sequences, int tokens, int context, int calls)
      : pool(pool),
        heads(heads),
        rows(sequences * tokens),
        tokens(tokens),
        context(context),
        pages((context + 63) / 64),
        q_bytes(heads * kDim * (pool.form == IndexForm::kE4m3 ? 1 : 2)),
        q(static_cast<size_t>(rows) * q_bytes),
        weights(static_cast<size_t>(rows) * heads),
        position(rows),
        sequence(rows),
        tables(pool.tables(calls, sequences, pages)),
        positions(static_cast<size_t>(rows) * 2048),
        slots(static_cast<size_t>(rows) * 2048),
        fault(sequences),
        sequences(sequences) {
    fill_queries<<<2048, kDim>>>(q.get(), weights.get(), rows, heads, pool.form, Codes::kReal);
    must(cudaDeviceSynchronize(), "fill");
    std::vector<int32_t> host_position(rows);
    std::vector<int32_t> host_sequence(rows);
    for (int row = 0; row < rows; ++row) {
      host_position[row] = context - tokens + row % tokens;
      host_sequence[row] = row / tokens;
    }
    position.upload(host_position);
    sequence.upload(host_sequence);
  }
  [[nodiscard]] cuda::DecodeArguments arguments(int call) const {
    const int32_t* table = tables.get() + static_cast<int64_t>(call) * sequences * pages;
    return {{q.get(),
             q_bytes,
             weights.get(),
             heads,
             pool.keys.get(),
             {position.get(), sequence.get(), table, pages, rows, context}},
            pool.form,
            heads,
            std::min(tokens, 4),
            {2048, positions.get(), slots.get(), fault.get()},
            nullptr,
            0};
  }
  [[nodiscard]] double bytes() const {
    return static_cast<double>(sequences) * context * static_cast<double>(cuda::page_bytes(pool.form)) / 64;
  }

  const Pool& pool;
  int heads;
  int rows;
  int tokens;
  int context;
  int pages;
  int q_bytes;
  DeviceArray<uint8_t> q;
  DeviceArray<float> weights;
  DeviceArray<int32_t> position;
  DeviceArray<int32_t> sequence;
  DeviceArray<int32_t> tables;
  DeviceArray<int32_t> positions;
  DeviceArray<int32_t> slots;
  DeviceArray<uint32_t> fault;
  int sequences;
};

std::string label(const char* kind, int batch, int tokens, int context, const char* more) {
  std::string text =
      std::string(kind) + " " + std::to_string(batch) + "x" + std::to_string(context / 1024) + "k";
  if (tokens > 1) text += " tokens " + std::to_string(tokens);
  return text + more;
}

void bench_limits(const Pool& pool) {
  report("empty kernel, 132 blocks", 64, 0, [](int, const LaunchOptions& options) {
    return cuda::launch_clusters(empty_kernel, dim3(132), 1, 512, 0, options);
  });
  DeviceArray<uint32_t> sink(1);
  for (const double megabytes : {1.081, 8.65, 34.6, 138.4}) {
    const int64_t vectors = static_cast<int64_t>(megabytes * 1e6) / 16;
    const int64_t all = static_cast<int64_t>(pool.keys.size()) / 16;
    report("cold read of " + std::to_string(megabytes).substr(0, 5) + " MB", 64, vectors * 16.0,
           [&](int call, const LaunchOptions& options) {
             const int64_t at = vectors * call % (all - vectors);
             return cuda::launch_clusters(read_kernel, dim3(132 * 3), 1, 512, 0, options,
                                          reinterpret_cast<const uint4*>(pool.keys.get()) + at, vectors,
                                          sink.get());
           });
  }
}

void bench_topk(int rows, int length, Scores kind, const char* name, const std::vector<LaunchOptions>& ways) {
  std::vector<float> scores(static_cast<size_t>(rows) * length);
  // A few different rows are enough, and the host draws slowly.
  const int different = std::min(rows, 4);
  for (int64_t i = 0; i < static_cast<int64_t>(different) * length; ++i) {
    scores[i] = score_at(9, static_cast<uint64_t>(i), i % length, length, kind);
  }
  for (int row = different; row < rows; ++row) {
    std::memcpy(&scores[static_cast<size_t>(row) * length],
                &scores[static_cast<size_t>(row % different) * length], static_cast<size_t>(length) * 4);
  }
  const DeviceArray<float> device_scores(scores);
  const DeviceArray<int32_t> position(std::vector<int32_t>(rows, length - 1));
  const DeviceArray<int32_t> sequence(std::vector<int32_t>(rows, 0));
  const DeviceArray<int32_t> pages(scattered(length / 64, 4));
  DeviceArray<int32_t> positions(static_cast<size_t>(rows) * 2048);
  DeviceArray<int32_t> slots(static_cast<size_t>(rows) * 2048);
  DeviceArray<uint32_t> fault(1);
  for (const LaunchOptions& way : ways) {
    std::string text = label("topk", rows, 1, length, " ") + name;
    if (way.cluster > 0) text += ", cluster " + std::to_string(way.cluster);
    if (way.threads > 0) text += ", threads " + std::to_string(way.threads);
    report(
        text, 64, rows * 4.0 * length,
        [&](int, const LaunchOptions& options) {
          return cuda::launch_topk({device_scores.get(),
                                    length,
                                    {position.get(), sequence.get(), pages.get(), length / 64, rows, length},
                                    {2048, positions.get(), slots.get(), fault.get()}},
                                   options);
        },
        way);
  }
}

void bench_decode(const Pool& pool, int heads, int batch, int tokens, int context,
                  const std::vector<LaunchOptions>& ways) {
  const int calls = batch * context > 1 << 20 ? 16 : 64;
  const Batch data(pool, heads, batch, tokens, context, calls);
  for (const LaunchOptions& way : ways) {
    std::string text =
        label(pool.form == IndexForm::kE4m3 ? "decode" : "decode bf16", batch, tokens, context, "");
    if (heads != 64) text += ", heads " + std::to_string(heads);
    if (way.cluster > 0) text += ", cluster " + std::to_string(way.cluster);
    if (way.early_keys) text += ", early keys";
    report(
        text, calls, data.bytes(),
        [&](int call, const LaunchOptions& options) {
          return cuda::launch_decode(data.arguments(call), options);
        },
        way);
  }
}

/// Row scores, then top-k.
void bench_two_kernels(const Pool& pool, int batch, int context, int cluster) {
  const int calls = batch * context > 1 << 20 ? 16 : 64;
  const Batch data(pool, 64, batch, 1, context, calls);
  DeviceArray<float> scores(static_cast<size_t>(batch) * context);
  report(label("row scores", batch, 1, context, ""), calls, data.bytes(),
         [&](int call, const LaunchOptions& options) {
           return cuda::launch_row_scores(data.arguments(call), scores.get(), context, options);
         });
  LaunchOptions way;
  way.cluster = cluster;
  report(
      label("row scores, then topk", batch, 1, context, cluster > 0 ? ", cluster " : "") +
          (cluster > 0 ? std::to_string(cluster) : ""),
      calls, data.bytes(),
      [&](int call, const LaunchOptions& options) {
        const auto arguments = data.arguments(call);
        LaunchOptions first = options;
        first.cluster = 0;
        const cudaError_t status = cuda::launch_row_scores(arguments, scores.get(), context, first);
        if (status != cudaSuccess) return status;
        return cuda::launch_topk({scores.get(), context, arguments.scores.rows, arguments.out}, options);
      },
      way);
}

/// A prompt of `length` from an empty cache: chunks of rows whose scores fit in 64 MiB.
void bench_prompt(const Pool& pool, int heads, int length) {
  const Batch data(pool, heads, 1, length, length, 1);
  const int rows = std::min<int>(
      length,
      static_cast<int>((size_t{64} << 20) / (4 * length + cuda::prompt_scratch_bytes(pool.form, heads, 1))) /
          64 * 64);
  DeviceArray<uint8_t> scratch(cuda::prompt_scratch_bytes(pool.form, heads, rows));
  DeviceArray<float> scores(static_cast<size_t>(rows) * length);
  for (const int what : {0, 1, 2}) {
    report(std::string(what == 0   ? "prompt scores "
                       : what == 1 ? "prompt topk "
                                   : "prompt scores + topk ") +
               std::to_string(length) + (heads == 64 ? "" : ", 32 heads") +
               (pool.form == IndexForm::kE4m3 ? "" : ", bf16"),
           4, 0, [&](int, const LaunchOptions& options) {
             for (int first = 0; first < length; first += rows) {
               cuda::DecodeArguments chunk = data.arguments(0);
               chunk.scores.q =
                   static_cast<const uint8_t*>(chunk.scores.q) + first * chunk.scores.q_stride_bytes;
               chunk.scores.head_weights += first * chunk.scores.weight_stride;
               chunk.scores.rows.position += first;
               chunk.scores.rows.sequence += first;
               chunk.scores.rows.num_rows = std::min(rows, length - first);
               chunk.scores.rows.max_context = std::min(length, first + rows);
               chunk.out.positions += static_cast<int64_t>(first) * 2048;
               chunk.out.slots += static_cast<int64_t>(first) * 2048;
               if (what != 1) {
                 const cudaError_t status = cuda::launch_prompt_scores(
                     chunk.scores, pool.form, heads, scratch.get(), scores.get(), length, options);
                 if (status != cudaSuccess) return status;
               }
               if (what != 0) {
                 const cudaError_t status =
                     cuda::launch_topk({scores.get(), length, chunk.scores.rows, chunk.out}, options);
                 if (status != cudaSuccess) return status;
               }
             }
             return cudaSuccess;
           });
  }
}

LaunchOptions way(int cluster, int threads = 0, bool early = false) {
  LaunchOptions options;
  options.cluster = cluster;
  options.threads = threads;
  options.early_keys = early;
  return options;
}

void bench_all() {
  cudaDeviceProp device{};
  must(cudaGetDeviceProperties(&device, 0), "device");
  std::printf("%s, %d multiprocessors, L2 %d MB\n", device.name, device.multiProcessorCount,
              device.l2CacheSize >> 20);
  const auto normal = [](int rows, int length, const std::vector<LaunchOptions>& ways) {
    bench_topk(rows, length, Scores::kNormal, "normal", ways);
  };
  normal(1, 8192, {way(0), way(1, 512), way(1, 1024), way(4, 512), way(8, 512)});
  normal(32, 8192, {way(0), way(1, 1024), way(2, 512)});
  normal(128, 8192, {way(0), way(1, 512)});
  normal(1, 32768, {way(0), way(8, 512), way(16, 512)});
  normal(32, 32768, {way(0), way(2, 1024), way(3, 1024)});
  normal(128, 32768, {way(0)});
  normal(1, 131072, {way(0), way(16, 512)});
  normal(32, 131072, {way(0), way(4, 512)});
  normal(128, 131072, {way(0)});
  const std::pair<Scores, const char*> hard[] = {{Scores::kConcentrated, "10+0.05n"},
                                                 {Scores::kTies, "ties"},
                                                 {Scores::kZeros, "zeros"},
                                                 {Scores::kAscending, "ascending"},
                                                 {Scores::kFew, "three values"}};
  for (const auto& [kind, name] : hard) {
    bench_topk(1, 8192, kind, name, {way(0)});
    bench_topk(128, 32768, kind, name, {way(0)});
    bench_topk(32, 131072, kind, name, {way(0)});
  }
  {
    const Pool pool(IndexForm::kE4m3, 72000);
    {
      const Batch data(pool, 64, 1, 1, 8192, 1);
      for (const int cluster : {1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 16}) {
        std::printf("clusters of %d at once: %d\n", cluster,
                    cuda::decode_clusters_at_once(data.arguments(0), cluster));
      }
    }
    bench_limits(pool);
    const auto decode = [&](int batch, int context, const std::vector<int>& clusters) {
      for (const int cluster : clusters)
        bench_decode(pool, 64, batch, 1, context, {way(cluster), way(cluster, 0, true)});
    };
    decode(1, 8192, {0, 8, 4});
    decode(2, 8192, {0});
    decode(8, 8192, {0, 4, 8});
    decode(32, 8192, {0, 2, 3});
    decode(128, 8192, {0});
    decode(1, 32768, {0});
    decode(8, 32768, {0});
    decode(32, 32768, {0, 3});
    decode(128, 32768, {0});
    decode(1, 131072, {16});
    decode(32, 131072, {0});
    bench_two_kernels(pool, 1, 8192, 0);
    bench_two_kernels(pool, 1, 32768, 0);
    bench_two_kernels(pool, 1, 131072, 0);
    bench_two_kernels(pool, 32, 32768, 0);
    bench_two_kernels(pool, 8, 131072, 0);
    bench_two_kernels(pool, 32, 131072, 0);
    for (const int tokens : {2, 4}) {
      for (const int batch : {1, 32, 128}) bench_decode(pool, 64, batch, tokens, 8192, {way(0)});
    }
    for (const int batch : {1, 8, 32, 128}) bench_decode(pool, 32, batch, 1, 8192, {way(0)});
    bench_prompt(pool, 64, 8192);
    bench_prompt(pool, 32, 8192);
  }
  const Pool pool(IndexForm::kBf16, 36000);
  for (const int batch : {1, 8, 32, 128}) bench_decode(pool, 64, batch, 1, 8192, {way(0)});
  bench_prompt(pool, 64, 8192);
}

}  // namespace
}  // namespace fulgur::cuda_test

int main(int argc, char** argv) {
  if (argc > 1)
    fulgur::cuda_test::table = std::fopen((std::string(argv[1]) + "/select_bench.tsv").c_str(), "w");
  fulgur::cuda_test::bench_all();
}
