// Times indexer_prepare's tuned kernels beside cuBLASLt's products by the method of docs/performance.md: a
// CUDA graph of 80 calls (68 of the queries), 21 replays after two, median and range of the time a call;
// weights rotate over more than 200 MB, activations are warm; programmatic dependent launch off and on. With
// a folder as argument, the table goes to prepare_bench.tsv there too.

#include <cstdio>
#include <functional>
#include <string>

#include "cuda/prepare_setup.cuh"
#include "graph_timing.cuh"
#include "kernels/cuda/cublas_lt.h"

namespace fulgur::cuda_test {
namespace {

using cuda::IndexRounding;

constexpr int kProjectCopies = 80;        // of 2.75 MB (GLM-5: 1.97)
constexpr double kQueryRotation = 214e6;  // bytes
std::FILE* table = nullptr;

cudaStream_t side = nullptr;
cudaEvent_t forked = nullptr;
cudaEvent_t joined = nullptr;

/// `bytes`: what the call must read from DRAM.
void row(const std::string& what, double bytes, const Timing& t) {
  char line[256];
  std::snprintf(line, sizeof line, "%s\t%.2f\t%.2f\t%.2f\t%.2f\n", what.c_str(), t.median_us, t.least_us,
                t.most_us, bytes / t.median_us * 1e-6);
  std::fputs(line, stdout);
  if (table != nullptr) std::fputs(line, table);
}

// The two bounds of every kernel: an empty launch and a read.
__global__ void empty_kernel() {
  asm volatile("griddepcontrol.launch_dependents;");
  asm volatile("griddepcontrol.wait;" ::: "memory");
}
/// Reads `pieces` of 16 bytes, four in flight a thread, before or after the predecessor's end.
__global__ void __launch_bounds__(512)
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

/// Fills `all` with copies of one array, one after the other.
template <typename T>
void fill_with_copies(const DeviceArray<T>& all, const DeviceArray<T>& array) {
  const size_t copies = all.size() / array.size();
  for (size_t i = 0; i < copies; ++i) {
    must(cudaMemcpy(all.get() + i * array.size(), array.get(), array.size() * sizeof(T),
                    cudaMemcpyDeviceToDevice),
         "copies");
  }
}

void bench_model(const Model& model, bool with_cublas) {
  const HostInputs in = make_inputs(model, Values::kRandom, 3);
  DeviceInputs device(in);
  const IndexRounding rounding{model.interleaved, false, true, true};
  const double project_bytes = 2.0 * model.outputs() * model.hidden;
  const double query_bytes = 128.0 * model.num_heads * model.q_rank;
  const DeviceArray<Bf16> project_weights(device.weights.size() * kProjectCopies);
  fill_with_copies(project_weights, device.weights);
  const int query_copies = static_cast<int>(kQueryRotation / query_bytes) + 1;
  const DeviceArray<uint8_t> query_weights(device.wq.size() * static_cast<size_t>(query_copies));
  fill_with_copies(query_weights, device.wq);
  const int query_calls = query_copies * ((64 + query_copies - 1) / query_copies);
  DeviceArray<float> kw(kMostTokens * static_cast<size_t>(model.outputs()));
  DeviceArray<uint8_t> cache(static_cast<size_t>(kPoolPages) * 64 * 132);
  DeviceArray<float> head_weights(kMostTokens * static_cast<size_t>(model.num_heads));
  DeviceArray<uint8_t> q(kMostTokens * static_cast<size_t>(model.num_heads) * 128);
  head_weights.poison(0);
  cuda::CublasLt cublas;
  const std::string name = model.name;

  const auto project_args = [&](int i, int tokens, float* out) {
    auto args = device.project(model, tokens, out);
    args.weights = project_weights.get() + static_cast<size_t>(i % kProjectCopies) * device.weights.size();
    return args;
  };
  DeviceArray<uint8_t> scratch(cuda::query_scratch_bytes(kMostTokens, model.q_rank));
  const auto query_args = [&](int i, int tokens) {
    auto args = device.query(model, rounding, tokens, q.get(), head_weights.get(), scratch.get());
    args.weights = query_weights.get() + static_cast<size_t>(i % query_copies) * device.wq.size();
    return args;
  };
  const auto key_args = device.keys(model, rounding, cache.get(), head_weights.get());

  for (const int tokens : {1, 2, 8, 16, 32, 64, 128}) {
    const std::string m = " M=" + std::to_string(tokens);
    if (with_cublas) {
      const Operand x{device.x.get(), DType::kBf16, tokens, model.hidden, model.hidden};
      const auto product = [&](int i, cudaStream_t stream, bool on_side, int first, int rows) {
        Weight w{.form = WeightForm::kBf16,
                 .rows = model.outputs(),
                 .cols = model.hidden,
                 .data = project_args(i, tokens, nullptr).weights};
        const Operand y{kw.get() + first, DType::kF32, tokens, rows, model.outputs()};
        cublas.multiply(stream, on_side, x, w.take_rows(first, rows), y);
      };
      row(name + " projection, cuBLASLt separate" + m, project_bytes,
          time_calls(kProjectCopies, [&](int i, cudaStream_t stream) {
            product(i, stream, false, 0, 128);
            product(i, stream, false, 128, model.num_heads);
          }));
      row(name + " projection, cuBLASLt two streams" + m, project_bytes,
          time_calls(kProjectCopies, [&](int i, cudaStream_t stream) {
            must(cudaEventRecord(forked, stream), "fork");
            must(cudaStreamWaitEvent(side, forked), "fork");
            product(i, stream, false, 0, 128);
            product(i, side, true, 128, model.num_heads);
            must(cudaEventRecord(joined, side), "join");
            must(cudaStreamWaitEvent(stream, joined), "join");
          }));
      row(name + " projection, cuBLASLt fused" + m, project_bytes,
          time_calls(kProjectCopies,
                     [&](int i, cudaStream_t stream) { product(i, stream, false, 0, model.outputs()); }));
    }
    for (const bool pdl : {false, true}) {
      const std::string tail = m + (pdl ? " PDL" : "");
      row(name + " projection" + tail, project_bytes,
          time_calls(kProjectCopies, [&](int i, cudaStream_t stream) {
            must(cuda::launch_project(project_args(i, tokens, kw.get()), stream, pdl), "projection");
          }));
      row(name + " hidden state to cache" + tail, project_bytes,
          time_calls(kProjectCopies, [&](int i, cudaStream_t stream) {
            must(cuda::launch_project_keys(project_args(i, tokens, nullptr), key_args, {}, stream, pdl),
                 "keys");
          }));
    }
    for (const bool pdl : {false, true}) {
      const std::string tail = m + (pdl ? " PDL" : "");
      row(name + " queries" + tail, query_bytes, time_calls(query_calls, [&](int i, cudaStream_t stream) {
            must(cuda::launch_query(query_args(i, tokens), stream, pdl), "queries");
          }));
      row(name + " keys, then queries" + tail, project_bytes + query_bytes,
          time_calls(query_calls, [&](int i, cudaStream_t stream) {
            const auto args = query_args(i, tokens);
            const bool few = tokens <= 8;
            must(cuda::launch_project_keys(project_args(i, tokens, nullptr), key_args,
                                           few ? cuda::LatentArguments{} : cuda::latents_of(args), stream,
                                           pdl),
                 "keys");
            must(few ? cuda::launch_query(args, stream, pdl) : cuda::launch_laid_out_query(args, stream, pdl),
                 "queries");
          }));
    }
  }
}

/// The K path from the projection's output, and the whole query side, of prompts; all warm.
void bench_prompt(const Model& model, int tokens) {
  const HostInputs in = make_inputs(model, Values::kRandom, 3, tokens);
  DeviceInputs device(in);
  const IndexRounding rounding{model.interleaved, false, true, true};
  const auto rows = static_cast<size_t>(tokens);
  const auto heads = static_cast<size_t>(model.num_heads);
  std::vector<float> values(rows * static_cast<size_t>(model.outputs()));
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<float>(2 * uniform_at(5, static_cast<uint32_t>(i)) - 1);
  DeviceArray<float> kw(values);
  DeviceArray<uint8_t> cache(static_cast<size_t>(kPoolPages) * 64 * 132);
  DeviceArray<float> head_weights(rows * heads);
  DeviceArray<uint8_t> q(rows * heads * 128);
  DeviceArray<uint8_t> scratch(cuda::query_scratch_bytes(tokens, model.q_rank));
  const std::string name = model.name;
  for (const bool pdl : {false, true}) {
    const std::string tail = " M=" + std::to_string(tokens) + (pdl ? " PDL" : "");
    row(name + " keys of kw" + tail, static_cast<double>(values.size()) * sizeof(float),
        time_calls(64, [&](int, cudaStream_t stream) {
          must(cuda::launch_keys({kw.get(), model.outputs(), tokens, model.num_heads},
                                 device.keys(model, rounding, cache.get(), head_weights.get()), stream, pdl),
               "keys");
        }));
    row(name + " queries" + tail, 128.0 * model.num_heads * model.q_rank,
        time_calls(64, [&](int, cudaStream_t stream) {
          must(cuda::launch_query(
                   device.query(model, rounding, tokens, q.get(), head_weights.get(), scratch.get()), stream,
                   pdl),
               "queries");
        }));
  }
}

void bench_bounds() {
  DeviceArray<uint32_t> memory((size_t{256} << 20) / 4);
  DeviceArray<uint32_t> sink(1);
  for (const bool pdl : {false, true}) {
    const std::string tail = pdl ? " PDL" : "";
    for (const int blocks : {1, 132})
      row("empty kernel, " + std::to_string(blocks) + " blocks" + tail, 0,
          time_calls(80, [&](int, cudaStream_t s) { launch_pdl(empty_kernel, blocks, 128, s, pdl); }));
    for (const int bytes : {2752512, 12582912}) {
      const int copies = (240 << 20) / bytes;
      row("cold read of " + std::to_string(bytes) + " bytes" + tail, bytes,
          time_calls(std::max(copies, 64), [&](int i, cudaStream_t s) {
            launch_pdl(read_kernel, bytes > (4 << 20) ? 264 : 132, 512, s, pdl,
                       reinterpret_cast<const uint4*>(memory.get()) +
                           static_cast<size_t>(i % copies) * static_cast<size_t>(bytes) / 16,
                       bytes / 16, pdl, sink.get());
          }));
    }
  }
}

}  // namespace
}  // namespace fulgur::cuda_test

int main(int argc, char** argv) {
  using namespace fulgur::cuda_test;
  if (no_gpu("No kernel was timed")) return 1;
  if (argc > 1) table = std::fopen((std::string(argv[1]) + "/prepare_bench.tsv").c_str(), "w");
  cudaDeviceProp properties{};
  must(cudaGetDeviceProperties(&properties, 0), "device");
  std::printf("%s; call, median us, least, most, TB/s\n", properties.name);
  must(cudaStreamCreateWithFlags(&side, cudaStreamNonBlocking), "stream");
  must(cudaEventCreateWithFlags(&forked, cudaEventDisableTiming), "event");
  must(cudaEventCreateWithFlags(&joined, cudaEventDisableTiming), "event");
  bench_bounds();
  for (const Model& model : {kDeepSeek, kGlm}) {
    bench_model(model, model.num_heads == kDeepSeek.num_heads);
    bench_prompt(model, 1024);
    bench_prompt(model, 8192);
  }
  if (table != nullptr) std::fclose(table);
  return 0;
}
