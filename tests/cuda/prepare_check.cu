// Checks indexer_prepare's tuned kernels on a GPU against tests/reference: V3.2's and GLM-5's shapes, numbers
// of tokens around every boundary, all roundings, random values and such whose sums are exact (equal bits),
// poisoned outputs, PDL off and on behind a predecessor that writes the inputs late, two runs, and that a
// row's bits are the same for every number of tokens. Prints a line a check and returns 1 if one failed.
//
//   cuda_prepare_test [quick]      quick: the fewest tokens and roundings, for compute-sanitizer

#include <cstdio>
#include <cstring>

#include "cuda/prepare_oracle.cuh"

namespace fulgur::cuda_test {
namespace {

using cuda::IndexRounding;

int failures = 0;
void report(bool good, const std::string& what) {
  std::printf("%s %s\n", good ? "ok    " : "FAILED", what.c_str());
  std::fflush(stdout);
  failures += good ? 0 : 1;
}

/// Writes `to` after a while: what a kernel with PDL must not read before.
__global__ void late_copy(uint32_t* to, const uint32_t* from, size_t words, int64_t cycles) {
  asm volatile("griddepcontrol.launch_dependents;");
  const int64_t begin = clock64();
  while (clock64() - begin < cycles) {
  }
  for (size_t i = blockIdx.x * blockDim.x + threadIdx.x; i < words; i += size_t{gridDim.x} * blockDim.x)
    to[i] = from[i];
}

std::string describe(const Model& model, Values values, const IndexRounding& r) {
  std::string text = std::string(model.name) + (values == Values::kIntegers ? " integers" : " random");
  text += r.e4m3 ? (r.power_of_two_scales ? " ue8m0" : " f32 scale") : " bf16";
  text += r.rope_interleaved ? " interleaved" : " half-split";
  return text + (r.hadamard ? " hadamard" : "");
}

template <typename T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b, size_t count) {
  return std::memcmp(a.data(), b.data(), count * sizeof(T)) == 0;
}
bool near(Real expected, double found) { return std::abs(found - expected.value) <= expected.error + 1e-30; }

struct Check {
  Model model;
  Values values;
  HostInputs in;
  DeviceInputs device;
  std::vector<int> counts;
  Table kw;  // [128, outputs], exact products
  cudaStream_t stream = nullptr;

  Check(const Model& m, Values v, std::vector<int> token_counts, bool projects = true)
      : model(m),
        values(v),
        in(make_inputs(m, v, 7, std::max(kMostTokens, token_counts.back()))),
        device(in),
        counts(std::move(token_counts)) {
    if (projects) {
      kw = products(table_of(in.x, counts.back(), m.hidden), table_of(in.weights, m.outputs(), m.hidden));
    }
    must(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
  }
  [[nodiscard]] std::string name() const {
    return std::string(model.name) + (values == Values::kIntegers ? " integers" : " random");
  }
  void finish(cudaError_t status, const char* what) const {
    must(status, what);
    must(cudaStreamSynchronize(stream), what);
  }
  /// Runs `launch` with PDL behind a kernel that writes `array` late.
  template <typename T, typename Launch>
  void run_late(DeviceArray<T>& array, const std::vector<T>& values_of_array, Launch launch) {
    DeviceArray<T> staged(values_of_array);
    must(cudaMemset(array.get(), 0x7e, array.size() * sizeof(T)), "poisoned inputs");
    must(cudaDeviceSynchronize(), "poisoned inputs");
    late_copy<<<16, 256, 0, stream>>>(reinterpret_cast<uint32_t*>(array.get()),
                                      reinterpret_cast<const uint32_t*>(staged.get()),
                                      array.size() * sizeof(T) / sizeof(uint32_t), 100000);
    finish(launch(true), "behind a late predecessor");
  }

  void projection();
  void keys(IndexRounding rounding, bool from_kw);
  void queries(IndexRounding rounding);
  [[nodiscard]] bool scratch_is_clean() const {
    const auto words = device.partials.download();
    return std::all_of(words.begin(), words.end(), [](uint32_t w) { return w == 0xffffffffU; });
  }
};

void Check::projection() {
  const size_t width = static_cast<size_t>(model.outputs());
  DeviceArray<float> out(kMostTokens * width);
  std::vector<float> of_most;
  for (auto count = counts.rbegin(); count != counts.rend(); ++count) {
    const size_t size = static_cast<size_t>(*count) * width;
    out.poison();
    finish(cuda::launch_project(device.project(model, *count, out.get()), stream, false), "projection");
    const auto got = out.download();
    if (of_most.empty()) of_most = got;
    bool good = true;
    double worst = 0;
    for (size_t i = 0; i < size; ++i) {
      const Real& expected = kw.data[i];
      const double off = std::abs(got[i] - expected.value);
      good &= values == Values::kIntegers ? off == 0 : near(expected, got[i]);
      if (!(off <= 1e30)) good = false;
      worst = std::max(worst, off);
    }
    for (size_t i = size; i < got.size(); ++i)
      good &= std::memcmp(&got[i], "\x77\x77\x77\x77", sizeof(float)) == 0;
    const std::string what = name() + " projection M=" + std::to_string(*count);
    report(good, what + ", worst " + std::to_string(worst));
    report(same_bits(got, of_most, size), what + " has the bits of a larger M");
    out.poison();
    run_late(device.x, in.x, [&](bool pdl) {
      cudaError_t status = cudaSuccess;
      for (int i = 0; i < 5 && status == cudaSuccess; ++i)
        status = cuda::launch_project(device.project(model, *count, out.get()), stream, pdl);
      return status;
    });
    report(same_bits(out.download(), got, size) && scratch_is_clean(),
           what + " five times with PDL behind a late predecessor");
  }
}

/// `from_kw`: those of prompts, which begin with the projection's output.
void Check::keys(IndexRounding rounding, bool from_kw) {
  const size_t heads = static_cast<size_t>(model.num_heads);
  const size_t page_bytes = rounding.e4m3 ? 64 * 132 : 64 * 256;
  DeviceArray<uint8_t> cache(kPoolPages * page_bytes);
  DeviceArray<float> head_weights(kMostTokens * heads);
  Table gain(1, 128);
  Table bias(1, 128);
  for (int64_t i = 0; i < 128; ++i) {
    gain.at(0, i) = in.gain[static_cast<size_t>(i)];
    bias.at(0, i) = in.bias[static_cast<size_t>(i)];
  }
  Table k0(kw.rows, 128);
  for (int64_t t = 0; t < kw.rows; ++t) std::copy_n(kw.row(t).begin(), 128, k0.row(t).begin());
  Table expected = reference::layer_norm(k0, gain.row(0), bias.row(0));
  const auto angles = [&](const std::vector<float>& table, int position) {
    std::vector<Real> row;
    for (size_t j = 0; j < 32; ++j) row.emplace_back(table[static_cast<size_t>(position) * 32 + j]);
    return row;
  };
  for (int64_t t = 0; t < kw.rows; ++t) {
    const int position = in.position[static_cast<size_t>(t)];
    reference::rotate(expected.row(t).first(64), angles(in.cos, position), angles(in.sin, position),
                      rounding.rope_interleaved);
    if (rounding.hadamard) reference::hadamard(expected.row(t));
  }
  const Real scale = reference::rounded(Real(1 / std::sqrt(128.0 * model.num_heads)));

  std::vector<float> kw_in(kw.data.size());
  for (size_t i = 0; i < kw_in.size(); ++i) kw_in[i] = static_cast<float>(kw.data[i].value);
  DeviceArray<float> projected(kw_in);
  std::vector<uint8_t> of_most;
  std::vector<float> weights_of_most;
  for (auto count = counts.rbegin(); count != counts.rend(); ++count) {
    const auto call = [&](bool pdl) {
      const auto args = device.keys(model, rounding, cache.get(), head_weights.get());
      return from_kw
                 ? cuda::launch_keys({projected.get(), model.outputs(), *count, model.num_heads}, args,
                                     stream, pdl)
                 : cuda::launch_project_keys(device.project(model, *count, nullptr), args, {}, stream, pdl);
    };
    cache.poison();
    head_weights.poison();
    finish(call(false), "keys");
    const auto got = cache.download();
    const auto weights = head_weights.download();
    if (of_most.empty()) of_most = got, weights_of_most = weights;
    std::vector<uint8_t> untouched(got.size(), 0x77);
    bool good = true;
    bool alike = same_bits(weights, weights_of_most, static_cast<size_t>(*count) * heads);
    for (int t = 0; t < *count; ++t) {
      const int position = in.position[static_cast<size_t>(t)];
      const int page =
          in.pages[static_cast<size_t>(in.sequence[static_cast<size_t>(t)] * kMostPages + position / 64)];
      const int slot = position % 64;
      const size_t base = static_cast<size_t>(page) * page_bytes;
      const auto touch = [&](size_t at, size_t bytes) {
        alike &= std::memcmp(&got[at], &of_most[at], bytes) == 0;
        std::copy_n(got.begin() + static_cast<int64_t>(at), bytes,
                    untouched.begin() + static_cast<int64_t>(at));
      };
      if (rounding.e4m3) {
        float sigma = 0;
        const size_t scale_at = base + 64 * 128 + static_cast<size_t>(slot) * 4;
        std::memcpy(&sigma, &got[scale_at], 4);
        bool fits = false;
        for (const Real& s : reference::group_scales(expected.row(t), rounding.power_of_two_scales)) {
          bool all = near(s, sigma);
          for (int64_t d = 0; d < 128; ++d)
            all &= reference::may_be_code(expected.at(t, d), s,
                                          e4m3_to_float(got[base + static_cast<size_t>(slot * 128 + d)]));
          fits |= all;
        }
        good &= fits;
        touch(scale_at, 4);
        touch(base + static_cast<size_t>(slot) * 128, 128);
      } else {
        for (int64_t d = 0; d < 128; ++d) {
          const size_t at = base + static_cast<size_t>((d / 2 * 64 + slot) * 2 + d % 2) * 2;
          Bf16 value;
          std::memcpy(&value, &got[at], 2);
          good &= near(reference::as_operand(expected.at(t, d), DType::kBf16), to_float(value));
          touch(at, 2);
        }
      }
      for (size_t h = 0; h < heads; ++h) {
        const Real w = kw.at(t, 128 + static_cast<int64_t>(h)) * scale;
        good &= near(w, weights[static_cast<size_t>(t) * heads + h]);
      }
    }
    const std::string what = describe(model, values, rounding) + (from_kw ? " keys of kw M=" : " keys M=") +
                             std::to_string(*count);
    report(good && untouched == got, what);
    report(alike, what + " have the bits of a larger M");
    cache.poison();
    head_weights.poison();
    const auto twice = [&](bool pdl) {
      const cudaError_t status = call(pdl);
      return status == cudaSuccess ? call(pdl) : status;
    };
    from_kw ? run_late(projected, kw_in, twice) : run_late(device.x, in.x, twice);
    report(same_bits(cache.download(), got, got.size()) &&
               same_bits(head_weights.download(), weights, weights.size()) && scratch_is_clean(),
           what + " twice with PDL behind a late predecessor");
  }
}

void Check::queries(IndexRounding rounding) {
  const size_t heads = static_cast<size_t>(model.num_heads);
  const size_t width = heads * 128 * (rounding.e4m3 ? 1 : 2);
  const auto most = static_cast<size_t>(counts.back());
  const bool prompt = counts.front() > kMostTokens;
  DeviceArray<uint8_t> q(most * width);
  std::vector<float> weights_in(most * heads);
  for (size_t i = 0; i < weights_in.size(); ++i)
    weights_in[i] = static_cast<float>(2 * uniform_at(99, static_cast<uint32_t>(i)) - 1);
  DeviceArray<float> head_weights(weights_in);
  DeviceArray<uint8_t> scratch(cuda::query_scratch_bytes(counts.back(), model.q_rank) + 1);
  DeviceArray<uint8_t> cache(kPoolPages * size_t{64} * 256);
  DeviceArray<float> raw_weights(most * heads);

  // The oracle for some tokens, the others by their bits: their rows equal one another's inputs in no way.
  std::vector<int> tokens;
  for (const int t :
       prompt ? std::vector<int>{0, 63, 64, 127, 128, 199} : std::vector<int>{0, 3, 7, 8, 17, 100})
    if (t < counts.back()) tokens.push_back(t);
  Table latent(static_cast<int64_t>(tokens.size()), model.q_rank);
  for (size_t i = 0; i < tokens.size(); ++i) {
    for (int c = 0; c < model.q_rank; ++c) {
      latent.at(static_cast<int64_t>(i), c) =
          Real(to_float(in.q_latent[static_cast<size_t>(tokens[i] * model.q_rank + c)]));
    }
  }
  Table expected = expected_queries(model, in, latent, prompt, rounding.power_of_two_scales);
  for (size_t i = 0; i < tokens.size(); ++i) {
    const auto position = static_cast<size_t>(in.position[static_cast<size_t>(tokens[i])]);
    std::vector<Real> cos;
    std::vector<Real> sin;
    for (size_t j = 0; j < 32; ++j)
      cos.emplace_back(in.cos[position * 32 + j]), sin.emplace_back(in.sin[position * 32 + j]);
    for (size_t h = 0; h < heads; ++h) {
      const auto head = expected.row(static_cast<int64_t>(i)).subspan(h * 128, 128);
      reference::rotate(head.first(64), cos, sin, rounding.rope_interleaved);
      if (rounding.hadamard) reference::hadamard(head);
    }
  }

  std::vector<uint8_t> of_most;
  std::vector<float> weights_of_most;
  for (auto count = counts.rbegin(); count != counts.rend(); ++count) {
    const auto args = device.query(model, rounding, *count, q.get(), head_weights.get(), scratch.get());
    const auto call = [&](bool pdl) { return cuda::launch_query(args, stream, pdl); };
    // As indexer_prepare has it: the keys' kernel lays q_latent out.
    const auto behind_keys = [&](bool pdl) {
      const cudaError_t status = cuda::launch_project_keys(
          device.project(model, *count, nullptr),
          device.keys(model, rounding, cache.get(), raw_weights.get()), cuda::latents_of(args), stream, pdl);
      return status == cudaSuccess ? cuda::launch_laid_out_query(args, stream, pdl) : status;
    };
    const size_t size = static_cast<size_t>(*count) * width;
    scratch.poison(0xff);
    q.poison();
    head_weights.upload(weights_in);
    finish(call(false), "queries");
    const auto got = q.download();
    const auto weights = head_weights.download();
    if (of_most.empty()) of_most = got, weights_of_most = weights;
    bool good = true;
    for (size_t i = 0; i < tokens.size(); ++i) {
      if (tokens[i] >= *count) continue;
      for (size_t h = 0; h < heads; ++h) {
        const auto head = expected.row(static_cast<int64_t>(i)).subspan(h * 128, 128);
        const uint8_t* found = &got[static_cast<size_t>(tokens[i]) * width + h * width / heads];
        const size_t weight_at = static_cast<size_t>(tokens[i]) * heads + h;
        if (rounding.e4m3) {
          bool fits = false;
          for (const Real& s : reference::group_scales(head, rounding.power_of_two_scales)) {
            bool all = near(s * Real(weights_in[weight_at]), weights[weight_at]);
            for (size_t d = 0; d < 128; ++d)
              all &= reference::may_be_code(head[d], s, e4m3_to_float(found[d]));
            fits |= all;
          }
          good &= fits;
        } else {
          for (size_t d = 0; d < 128; ++d) {
            Bf16 value;
            std::memcpy(&value, found + 2 * d, 2);
            good &= near(reference::as_operand(head[d], DType::kBf16), to_float(value));
          }
          good &= weights[weight_at] == weights_in[weight_at];
        }
      }
    }
    for (size_t i = size; i < got.size(); ++i) good &= got[i] == 0x77;
    const std::string what = describe(model, values, rounding) + " queries M=" + std::to_string(*count);
    report(good, what);
    report(same_bits(got, of_most, size) &&
               same_bits(weights, weights_of_most, static_cast<size_t>(*count) * heads),
           what + " have the bits of a larger M");
    q.poison();
    scratch.poison(0xff);
    head_weights.upload(weights_in);
    if (*count > 8 && !prompt) {
      run_late(device.q_latent, in.q_latent, behind_keys);
    } else {
      run_late(device.q_latent, in.q_latent, call);
    }
    report(same_bits(q.download(), got, got.size()) &&
               same_bits(head_weights.download(), weights, weights.size()),
           what + " with PDL behind a late predecessor");
  }
}

int run(bool quick) {
  if (no_gpu("No kernel was tested")) return 0;
  const std::vector<int> counts =
      quick ? std::vector<int>{1, 9} : std::vector<int>{1, 2, 7, 8, 9, 16, 31, 33, 64, 65, 100, 128};
  const std::vector<int> query_counts =
      quick ? std::vector<int>{1, 9} : std::vector<int>{1, 2, 5, 8, 9, 17, 33, 64, 100, 128};
  const std::vector<int> prompt_counts = quick ? std::vector<int>{129} : std::vector<int>{129, 192, 200, 270};
  for (const Model& model : {kDeepSeek, kGlm}) {
    const IndexRounding plain{model.interleaved, false, true, true};
    const IndexRounding turned{!model.interleaved, true, true, false};
    const IndexRounding in_bf16{model.interleaved, false, false, false};
    for (const Values values : {Values::kIntegers, Values::kRandom}) {
      const bool random = values == Values::kRandom;
      Check check(model, values, counts);
      check.projection();
      check.keys(plain, false);
      check.keys(plain, true);
      if (random && !quick) {
        check.keys(turned, false);
        check.keys(in_bf16, false);
        check.keys(turned, true);
        check.keys(in_bf16, true);
      }
      check.counts = query_counts;
      check.queries(plain);
      if (random && !quick) {
        check.queries(turned);
        check.queries({!model.interleaved, false, false, false});
      }
      Check prompt(model, values, prompt_counts, false);
      prompt.queries(plain);
      if (random && !quick) {
        prompt.queries(turned);
        prompt.queries({!model.interleaved, true, false, false});
      }
      if (quick) break;
    }
  }
  std::printf("%s: %d checks failed\n", failures == 0 ? "PASSED" : "FAILED", failures);
  return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace fulgur::cuda_test

int main(int argc, char** argv) {
  return fulgur::cuda_test::run(argc > 1 && std::strcmp(argv[1], "quick") == 0);
}
