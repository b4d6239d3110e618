#pragma once

// What the queries' kernels may give, from tests/reference: products of whole weights, on all processors.

#include <atomic>
#include <thread>

#include "cuda/prepare_setup.cuh"
#include "reference/fp8_group.h"
#include "reference/indexer_prepare.h"
#include "reference/indexer_scores.h"

namespace fulgur::cuda_test {

using reference::Real;
using reference::Table;

inline Table table_of(const std::vector<Bf16>& values, int64_t rows, int64_t cols) {
  return reference::values_of(values.data(), DType::kBf16, rows, cols, cols);
}

/// f(i) for i < count on all processors: oracles of whole weights take long.
template <typename F>
void in_parallel(int64_t count, F f) {
  std::atomic<int64_t> next = 0;
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < std::max(1U, std::thread::hardware_concurrency()); ++i) {
    threads.emplace_back([&] {
      for (int64_t at = next++; at < count; at = next++) f(at);
    });
  }
  for (std::thread& thread : threads) thread.join();
}
/// The product of rows with a weight.
inline Table products(const Table& rows, const Table& weights) {
  Table out(rows.rows, weights.rows);
  in_parallel(rows.rows, [&](int64_t t) {
    const Table of_row = reference::linear(rows.take_rows(t, 1), weights);
    std::copy(of_row.data.begin(), of_row.data.end(), out.row(t).begin());
  });
  return out;
}

/// q_latent as a prompt's product takes it: codes and scales of groups of 128 columns.
struct Codes {
  Table codes;
  Table scales;

  Codes(const Table& values, bool power_of_two)
      : codes(values.rows, values.cols), scales(values.rows, values.cols / 128) {
    for (int64_t t = 0; t < values.rows; ++t) {
      for (int64_t g = 0; g < scales.cols; ++g) {
        const auto group = values.row(t).subspan(static_cast<size_t>(g) * 128, 128);
        float amax = 1e-4F;
        for (const Real& v : group) amax = std::max(amax, static_cast<float>(std::abs(v.value)));
        float sigma = amax / 448.0F;
        if (power_of_two) sigma = static_cast<float>(std::exp2(std::ceil(std::log2(sigma))));
        scales.at(t, g) = Real(sigma);
        for (size_t c = 0; c < 128; ++c) {
          codes.at(t, g * 128 + static_cast<int64_t>(c)) =
              Real(reference::nearest_e4m3(static_cast<float>(group[c].value) / sigma));
        }
      }
    }
  }
};

/// What W_iq q_latent may be of some tokens: of prompts, products of codes as tensor cores sum them, a group
/// of columns at a time.
inline Table expected_queries(const Model& model, const HostInputs& in, const Table& latent, bool prompt,
                              bool power_of_two) {
  const std::vector<float> ones(in.scales.size(), 1.0F);
  const Weight w{.form = WeightForm::kFp8,
                 .rows = model.num_heads * 128,
                 .cols = model.q_rank,
                 .data = in.wq.data(),
                 .scales = prompt ? ones.data() : in.scales.data(),
                 .block_rows = 128,
                 .block_cols = 128};
  const Table weights = reference::values_of(w);
  if (!prompt) return products(latent, weights);
  const Codes rounded(latent, power_of_two);
  Table out(latent.rows, weights.rows);
  in_parallel(weights.rows, [&](int64_t r) {
    for (int64_t t = 0; t < latent.rows; ++t) {
      for (int64_t g = 0; g < rounded.scales.cols; ++g) {
        const auto at = static_cast<size_t>(g) * 128;
        const Real scale =
            rounded.scales.at(t, g) * Real(in.scales[static_cast<size_t>(r / 128 * rounded.scales.cols + g)]);
        const Real group =
            reference::dot_of_codes(rounded.codes.row(t).subspan(at, 128), weights.row(r).subspan(at, 128));
        out.at(t, r) = out.at(t, r) + group * scale;
      }
    }
  });
  return out;
}

}  // namespace fulgur::cuda_test
