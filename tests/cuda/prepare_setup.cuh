#pragma once

// What the check and the bench of indexer_prepare's tuned kernels share: shapes, inputs from a counter-based
// generator, device memory.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "base/counter_rng.h"
#include "cuda/device_array.h"
#include "kernels/cuda/indexer_prepare_tuned.h"

namespace fulgur::cuda_test {

struct Model {
  const char* name;
  int hidden;
  int num_heads;
  int q_rank;
  bool interleaved;
  [[nodiscard]] int outputs() const { return cuda::kIndexDim + num_heads; }
};
constexpr Model kDeepSeek{"V3.2", 7168, 64, 1536, false};
constexpr Model kGlm{"GLM-5", 6144, 32, 2048, true};

constexpr int kMostTokens = 128;  // of decode; prompts have more
constexpr int kPositions = 9000;
constexpr int kPageTokens = 64;
constexpr int kMostPages = (kPositions + kPageTokens - 1) / kPageTokens;

enum class Values { kRandom, kIntegers };

/// Values in [-1, 1), or small integers times `step`, a power of two: sums of their products are exact.
inline double drawn(uint64_t seed, uint32_t index, Values values, int most, double step) {
  const double u = uniform_at(seed, index);
  if (values == Values::kIntegers) return (std::floor(u * (2 * most + 1)) - most) * step;
  return 2 * u - 1;
}

struct HostInputs {
  std::vector<Bf16> x;        // [tokens, hidden]
  std::vector<Bf16> weights;  // [outputs, hidden]
  std::vector<float> gain;    // [128]
  std::vector<float> bias;
  std::vector<Bf16> q_latent;  // [tokens, q_rank]
  std::vector<uint8_t> wq;     // [heads * 128, q_rank]
  std::vector<float> scales;   // [heads, q_rank / 128]
  std::vector<float> cos;      // [positions, 32]
  std::vector<float> sin;
  std::vector<int32_t> position;  // [tokens]: of 4 sequences
  std::vector<int32_t> sequence;
  std::vector<int32_t> pages;  // [4, kMostPages], a permutation
};
constexpr int kSequences = 4;
constexpr int kPoolPages = kSequences * kMostPages;

inline HostInputs make_inputs(const Model& model, Values values, uint64_t seed, int tokens = kMostTokens) {
  HostInputs in;
  const auto bf16s = [&](std::vector<Bf16>& to, int64_t count, uint64_t stream, int most, double step,
                         double spread) {
    to.resize(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i) {
      const double v = drawn(seed * 16 + stream, static_cast<uint32_t>(i), values, most, step);
      to[static_cast<size_t>(i)] = to_bf16(static_cast<float>(values == Values::kIntegers ? v : v * spread));
    }
  };
  bf16s(in.x, int64_t{tokens} * model.hidden, 1, 3, 0.5, 2.0);
  bf16s(in.weights, int64_t{model.outputs()} * model.hidden, 2, 3, 0.125, 0.05);
  bf16s(in.q_latent, int64_t{tokens} * model.q_rank, 3, 3, 0.5, 3.0);
  in.wq.resize(static_cast<size_t>(model.num_heads) * 128 * static_cast<size_t>(model.q_rank));
  for (size_t i = 0; i < in.wq.size(); ++i) {
    const double v = drawn(seed * 16 + 4, static_cast<uint32_t>(i), values, 3, 1.0);
    in.wq[i] = to_e4m3(static_cast<float>(values == Values::kIntegers ? v : v * 300));
  }
  in.scales.resize(static_cast<size_t>(model.num_heads * model.q_rank / 128));
  for (size_t i = 0; i < in.scales.size(); ++i) {
    const double u = uniform_at(seed * 16 + 5, static_cast<uint32_t>(i));
    in.scales[i] =
        static_cast<float>(values == Values::kIntegers ? std::exp2(-std::floor(u * 3)) : 1e-4 * (0.5 + u));
  }
  for (int i = 0; i < 128; ++i) {
    in.gain.push_back(
        static_cast<float>(1 + 0.5 * drawn(seed * 16 + 6, static_cast<uint32_t>(i), Values::kRandom, 0, 0)));
    in.bias.push_back(
        static_cast<float>(0.5 * drawn(seed * 16 + 7, static_cast<uint32_t>(i), Values::kRandom, 0, 0)));
  }
  for (int p = 0; p < kPositions; ++p) {
    for (int j = 0; j < 32; ++j) {
      const double angle = p * std::pow(10000.0, -2.0 * j / 64);
      in.cos.push_back(static_cast<float>(std::cos(angle)));
      in.sin.push_back(static_cast<float>(std::sin(angle)));
    }
  }
  for (int t = 0; t < tokens; ++t) {
    const int rows = (tokens + kSequences - 1) / kSequences;
    const int sequence = t / rows;
    in.sequence.push_back(sequence);
    in.position.push_back(sequence * 2900 + 17 + t % rows + (sequence == 0 ? 30 : 0));
  }
  in.pages.resize(kPoolPages);
  for (int i = 0; i < kPoolPages; ++i) in.pages[static_cast<size_t>(i)] = i;
  for (int i = kPoolPages - 1; i > 0; --i) {
    const auto j = static_cast<int>(uniform_at(seed * 16 + 8, static_cast<uint32_t>(i)) * (i + 1));
    std::swap(in.pages[static_cast<size_t>(i)], in.pages[static_cast<size_t>(j)]);
  }
  return in;
}

struct DeviceInputs {
  explicit DeviceInputs(const HostInputs& in)
      : x(in.x),
        weights(in.weights),
        gain(in.gain),
        bias(in.bias),
        q_latent(in.q_latent),
        wq(in.wq),
        scales(in.scales),
        cos(in.cos),
        sin(in.sin),
        position(in.position),
        sequence(in.sequence),
        pages(in.pages),
        partials(cuda::kProjectBytes / sizeof(uint32_t)) {
    partials.poison(0xff);
  }
  DeviceArray<Bf16> x;
  DeviceArray<Bf16> weights;
  DeviceArray<float> gain;
  DeviceArray<float> bias;
  DeviceArray<Bf16> q_latent;
  DeviceArray<uint8_t> wq;
  DeviceArray<float> scales;
  DeviceArray<float> cos;
  DeviceArray<float> sin;
  DeviceArray<int32_t> position;
  DeviceArray<int32_t> sequence;
  DeviceArray<int32_t> pages;
  DeviceArray<uint32_t> partials;

  [[nodiscard]] cuda::IndexRows rows() const {
    return {position.get(), sequence.get(), pages.get(), kMostPages, cos.get(), sin.get(), 32};
  }
  [[nodiscard]] cuda::ProjectArguments project(const Model& model, int tokens, float* out) const {
    return {x.get(),         model.hidden,   weights.get(), tokens,         model.hidden,
            model.outputs(), partials.get(), out,           model.outputs()};
  }
  [[nodiscard]] cuda::KeyArguments keys(const Model& model, cuda::IndexRounding rounding, uint8_t* to,
                                        float* head_weights) const {
    constexpr int kPairStride = 2 * kPageTokens;
    return {.rounding = rounding,
            .rows = rows(),
            .gain = gain.get(),
            .bias = bias.get(),
            .norm_is_bf16 = false,
            .keys = to,
            .page_bytes = rounding.e4m3 ? 64 * 132 : 64 * 256,
            .pair_stride = kPairStride,
            .slot_stride = 2,
            .head_weights = head_weights,
            .head_weight_stride = model.num_heads,
            .weight_scale = static_cast<float>(1.0 / std::sqrt(128.0 * model.num_heads))};
  }
  [[nodiscard]] cuda::QueryArguments query(const Model& model, cuda::IndexRounding rounding, int tokens,
                                           void* q, float* head_weights, uint8_t* scratch) const {
    return {.q_latent = q_latent.get(),
            .q_latent_stride = model.q_rank,
            .weights = wq.get(),
            .scales = scales.get(),
            .num_tokens = tokens,
            .num_heads = model.num_heads,
            .q_rank = model.q_rank,
            .rounding = rounding,
            .rows = rows(),
            .q = q,
            .q_stride = int64_t{model.num_heads} * 128,
            .head_weights = head_weights,
            .head_weight_stride = model.num_heads,
            .scratch = scratch};
  }
};

}  // namespace fulgur::cuda_test
