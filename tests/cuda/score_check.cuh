#pragma once

// Scores of a batch by every tuned kernel (fused decode, row scores, prompt scores) and the selections made
// of them, against oracles in double.

#include <cstring>
#include <string>

#include "cuda/select_oracle.h"
#include "cuda/select_setup.cuh"
#include "ops/token_batch.h"

namespace fulgur::cuda_test {

using cuda::LaunchOptions;

inline int failures = 0;

inline void fail(const std::string& what) {
  ++failures;
  if (failures <= 40) std::printf("WRONG %s\n", what.c_str());
  std::fflush(stdout);
}

/// One row's selection against the positions it should be.
inline bool same_selection(const int32_t* positions, const int32_t* slots,
                           const std::vector<int32_t>& expected, int topk, const int32_t* pages,
                           const std::string& what) {
  for (int i = 0; i < topk; ++i) {
    const int32_t position = i < static_cast<int>(expected.size()) ? expected[i] : -1;
    const int32_t slot = position < 0 ? -1 : pages[position / 64] * 64 + position % 64;
    if (positions[i] != position || slots[i] != slot) {
      fail(what + ": entry " + std::to_string(i) + " is " + std::to_string(positions[i]) + " (slot " +
           std::to_string(slots[i]) + "), expected " + std::to_string(position) + " (" +
           std::to_string(slot) + ")");
      return false;
    }
  }
  return true;
}

/// Where a NaN is planted for one row, whose selection must be -1 and whose sequence must be flagged.
enum class NanIn { kNothing, kHeadWeight, kQuery, kKeyScale };

struct Case {
  const char* name;
  int heads;
  Codes codes;
  int topk;
  int tokens_per_sequence;
  std::vector<int> contexts;  // of each sequence, its new tokens included
  std::vector<int> tokens;    // new tokens of each sequence
  std::vector<int> clusters;
  int sampled = 1 << 30;  // positions of a row that the oracle looks at; Codes::kOnes: all
  NanIn nan_in = NanIn::kNothing;
  int nan_row = -1;  // kKeyScale: of the key at its own position
  int bound = 0;     // what the launch knows of the contexts; 0: the longest
};

class Check {
 public:
  explicit Check(const Case& c)
      : case_(c), num_pages_(pages_of(c)), keys_(static_cast<size_t>(num_pages_) * cuda::kIndexPageBytes) {
    for (size_t s = 0; s < c.contexts.size(); ++s) {
      for (int i = 0; i < c.tokens[s]; ++i) {
        position_.push_back(c.contexts[s] - c.tokens[s] + i);
        sequence_.push_back(static_cast<int32_t>(s));
      }
      longest_ = std::max(longest_, c.contexts[s]);
    }
    bound_ = std::max(c.bound, longest_);
    page_stride_ = (bound_ + 63) / 64;
    pages_.assign(c.contexts.size() * page_stride_, 0);
    const auto order = scattered(num_pages_, 3);
    int used = 0;
    for (size_t s = 0; s < c.contexts.size(); ++s) {
      for (int p = 0; p * 64 < c.contexts[s]; ++p) pages_[s * page_stride_ + p] = order[used++];
    }
    fill_keys<<<1024, kDim>>>(keys_.get(), num_pages_, c.codes);
    must(cudaDeviceSynchronize(), "fill_keys");
    if (c.codes == Codes::kOnes) make_scores();
  }

  void run() {
    const int rows = static_cast<int>(position_.size());
    const int64_t stride = (longest_ + 63) / 64 * 64;
    const int q_bytes = case_.heads * kDim;
    DeviceArray<uint8_t> q(static_cast<size_t>(rows) * q_bytes);
    DeviceArray<float> weights(static_cast<size_t>(rows) * case_.heads);
    fill_queries<<<1024, kDim>>>(q.get(), weights.get(), rows, case_.heads, case_.codes);
    must(cudaDeviceSynchronize(), "fill_queries");
    const DeviceArray<int32_t> position(position_);
    const DeviceArray<int32_t> sequence(sequence_);
    const DeviceArray<int32_t> pages(pages_);
    DeviceArray<int32_t> positions(static_cast<size_t>(rows) * case_.topk);
    DeviceArray<int32_t> slots(static_cast<size_t>(rows) * case_.topk);
    DeviceArray<uint32_t> fault(case_.contexts.size());
    DeviceArray<float> dump(rows * stride);
    cuda::DecodeArguments arguments{
        {q.get(),
         q_bytes,
         weights.get(),
         case_.heads,
         keys_.get(),
         {position.get(), sequence.get(), pages.get(), page_stride_, rows, bound_}},
        case_.heads,
        case_.tokens_per_sequence,
        {case_.topk, positions.get(), slots.get(), fault.get()},
        nullptr,
        stride};
    // The first way's scores, or those that were made: all others must give the same bits.
    std::vector<float> first = made_scores(stride);
    if (case_.nan_in != NanIn::kNothing) {
      // Of rows that the NaN must not harm.
      dump.poison(0xFF);
      must(cuda::launch_row_scores(arguments, dump.get(), stride, {}), "launch_row_scores");
      first = dump.download();
      check_scores(first, stride);
      plant_nan(q.get(), q_bytes, weights.get());
    }
    // Runs one way on a clean slate.
    const auto select = [&](const std::string& what, auto launch) {
      positions.poison();
      slots.poison();
      must(cudaMemset(fault.get(), 0, fault.size() * 4), "memset");
      launch();
      must(cudaDeviceSynchronize(), what.c_str());
    };
    for (const int cluster : case_.clusters) {
      for (const bool dumps : {true, false}) {
        LaunchOptions options;
        options.cluster = cluster;
        options.early_keys = !dumps;
        options.pdl = !dumps;
        arguments.dump = dumps ? dump.get() : nullptr;
        if (cluster > 0 && !cuda::decode_takes(arguments, cluster)) {
          std::printf("  %s: cluster %d doesn't fit\n", case_.name, cluster);
          break;
        }
        const std::string what = std::string(case_.name) + ", cluster " + std::to_string(cluster);
        dump.poison(0xFF);
        select(what, [&] { must(cuda::launch_decode(arguments, options), "launch_decode"); });
        if (dumps) {
          const auto scores = dump.download();
          if (first.empty()) {
            first = scores;
            check_scores(scores, stride);
          } else {
            same_bits(first, scores, stride, what);
          }
        }
        check_selection(positions.download(), slots.download(), fault.download(), first, stride,
                        what + (dumps ? ", dumps" : ""));
      }
    }
    arguments.scores.unscored = case_.topk;
    DeviceArray<uint8_t> scratch(cuda::prompt_scratch_bytes(case_.heads, rows));
    struct Way {
      const char* name;
      bool prompt;
      bool early;
    };
    for (const auto& [name, prompt, early] :
         {Way{"row scores", false, false}, Way{"early row scores", false, true},
          Way{"prompt scores", true, false}}) {
      LaunchOptions options;
      options.early_keys = early;
      options.pdl = early;
      dump.poison(0xFF);
      const cudaError_t status = prompt
                                     ? cuda::launch_prompt_scores(arguments.scores, case_.heads,
                                                                  scratch.get(), dump.get(), stride, options)
                                     : cuda::launch_row_scores(arguments, dump.get(), stride, options);
      must(status, name);
      must(cudaDeviceSynchronize(), name);
      const std::string what = std::string(case_.name) + ", " + name;
      const auto scores = dump.download();
      if (first.empty()) {
        first = scores;
        check_scores(first, stride);
      } else {
        same_bits(first, scores, stride, what);
      }
      check_unscored(scores, stride, prompt, what);
      select(what, [&] {
        must(cuda::launch_topk({dump.get(), stride, arguments.scores.rows, arguments.out}, options),
             "launch_topk");
      });
      check_selection(positions.download(), slots.download(), fault.download(), first, stride, what);
    }
    std::printf("%s: %d rows up to %d, largest error %.3g of the sum of magnitudes\n", case_.name, rows,
                longest_, largest_error_);
    std::fflush(stdout);
  }

 private:
  static int pages_of(const Case& c) {
    int pages = 3;
    for (const int context : c.contexts) pages += (context + 63) / 64;
    return pages;
  }

  /// Codes::kOnes: the scores of sequence s are of the kind s % kScoreKinds.
  void make_scores() {
    std::vector<float> scales(static_cast<size_t>(num_pages_) * 64, 1);
    for (size_t s = 0; s < case_.contexts.size(); ++s) {
      const int length = case_.contexts[s];
      const auto kind = static_cast<Scores>(s % kScoreKinds);
      std::vector<float>& made = made_.emplace_back(length);
      for (int i = 0; i < length; ++i) {
        made[i] = score_at(78, s << 32 | static_cast<uint32_t>(i), i, length, kind);
        scales[static_cast<size_t>(pages_[s * page_stride_ + i / 64]) * 64 + i % 64] = made[i];
      }
    }
    put_scales(keys_.get(), scales);
  }
  /// [rows, stride]; nothing where none were made.
  [[nodiscard]] std::vector<float> made_scores(int64_t stride) const {
    if (made_.empty()) return {};
    std::vector<float> scores(position_.size() * stride);
    for (size_t row = 0; row < position_.size(); ++row) {
      const std::vector<float>& made = made_[sequence_[row]];
      std::copy(made.begin(), made.end(), scores.begin() + static_cast<int64_t>(row) * stride);
    }
    return scores;
  }

  void plant_nan(uint8_t* q, int q_bytes, float* weights) {
    const float nan = NAN;
    const uint8_t nan_code = 0x7F;
    const int row = case_.nan_row;
    const int position = position_[row];
    const int64_t page = pages_[sequence_[row] * page_stride_ + position / 64];
    const auto put = [](void* to, const void* from, size_t bytes) {
      must(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice), "a NaN");
    };
    if (case_.nan_in == NanIn::kHeadWeight) put(weights + row * case_.heads + 3, &nan, sizeof nan);
    if (case_.nan_in == NanIn::kQuery) put(q + int64_t{row} * q_bytes + 5 * kDim + 17, &nan_code, 1);
    if (case_.nan_in == NanIn::kKeyScale) {
      uint8_t* scales = keys_.get() + page * static_cast<int64_t>(cuda::kIndexPageBytes) + 64 * kDim;
      put(scales + position % 64 * 4, &nan, sizeof nan);
    }
  }
  /// The planted NaN is in one of the row's scores; rows that may read everything have none.
  [[nodiscard]] bool has_nan(size_t row) const {
    if (position_[row] < case_.topk) return false;
    if (!made_.empty()) {
      const std::vector<float>& made = made_[sequence_[row]];
      return std::any_of(made.begin(), made.begin() + position_[row] + 1,
                         [](float x) { return std::isnan(x); });
    }
    if (case_.nan_in == NanIn::kNothing) return false;
    if (case_.nan_in != NanIn::kKeyScale) return static_cast<int>(row) == case_.nan_row;
    return sequence_[row] == sequence_[case_.nan_row] && position_[row] >= position_[case_.nan_row];
  }

  void same_bits(const std::vector<float>& a, const std::vector<float>& b, int64_t stride,
                 const std::string& what) {
    for (size_t row = 0; row < position_.size(); ++row) {
      if (position_[row] < case_.topk || has_nan(row)) continue;  // need not be scored
      for (int s = 0; s <= position_[row]; ++s) {
        if (std::memcmp(&a[row * stride + s], &b[row * stride + s], 4) != 0) {
          fail(what + ": row " + std::to_string(row) + ", score " + std::to_string(s) + " is " +
               std::to_string(b[row * stride + s]) + ", elsewhere " + std::to_string(a[row * stride + s]));
          return;
        }
      }
    }
  }

  /// Rows that may read everything were left as they were: of a prompt each, else where all of a sequence
  /// may.
  void check_unscored(const std::vector<float>& scores, int64_t stride, bool prompt,
                      const std::string& what) {
    for (size_t row = 0; row < position_.size(); ++row) {
      const int longest = prompt ? position_[row] + 1 : case_.contexts[sequence_[row]];
      uint32_t bits;
      std::memcpy(&bits, &scores[row * stride], sizeof bits);
      if (longest <= case_.topk && bits != 0xFFFFFFFF) fail(what + ": scored row " + std::to_string(row));
    }
  }

  void check_scores(const std::vector<float>& scores, int64_t stride) {
    const bool exact = case_.codes != Codes::kReal;
    std::vector<double> q(static_cast<size_t>(case_.heads) * kDim);
    std::vector<double> weights(case_.heads);
    std::vector<double> key(kDim);
    for (size_t row = 0; row < position_.size(); ++row) {
      if (position_[row] < case_.topk) continue;
      for (size_t i = 0; i < q.size(); ++i)
        q[i] = e4m3_value(code_at(kQuerySeed, row * q.size() + i, case_.codes));
      for (int h = 0; h < case_.heads; ++h)
        weights[h] = weight_at(kWeightSeed, row * case_.heads + h, case_.codes, case_.heads);
      const int length = position_[row] + 1;
      const int step = std::max(1, length / case_.sampled);
      for (int s = length - 1; s >= 0; s -= step) {
        const uint64_t global =
            static_cast<uint64_t>(pages_[sequence_[row] * page_stride_ + s / 64]) * 64 + s % 64;
        for (int d = 0; d < kDim; ++d) key[d] = e4m3_value(code_at(kKeySeed, global * kDim + d, case_.codes));
        const double scale = scale_at(kScaleSeed, global, case_.codes);
        const ReferenceScore reference = reference_score(q, weights, key.data(), kDim, scale);
        const float score = scores[row * stride + s];
        const double limit = exact ? 0 : reference.limit(kDim);
        const double error = std::abs(score - reference.score);
        if (reference.magnitude > 0) largest_error_ = std::max(largest_error_, error / reference.magnitude);
        if (!(error <= limit)) {
          fail(std::string(case_.name) + ": row " + std::to_string(row) + ", score " + std::to_string(s) +
               " is " + std::to_string(score) + ", expected " + std::to_string(reference.score) + " within " +
               std::to_string(limit));
          return;
        }
      }
    }
  }

  void check_selection(const std::vector<int32_t>& positions, const std::vector<int32_t>& slots,
                       const std::vector<uint32_t>& fault, const std::vector<float>& scores, int64_t stride,
                       const std::string& what) {
    const int topk = case_.topk;
    std::vector<uint32_t> flagged(case_.contexts.size(), 0);
    for (size_t row = 0; row < position_.size(); ++row) {
      if (has_nan(row)) flagged[sequence_[row]] = kFaultNan;
    }
    if (fault != flagged) fail(what + ": the sequences' fault bits");
    for (size_t row = 0; row < position_.size(); ++row) {
      std::vector<int32_t> expected(position_[row] + 1);
      std::iota(expected.begin(), expected.end(), 0);
      if (has_nan(row)) {
        expected.clear();
      } else if (position_[row] >= topk) {
        expected = best_positions(
            std::vector<float>(&scores[row * stride], &scores[row * stride] + position_[row] + 1), topk);
      }
      if (!same_selection(&positions[row * topk], &slots[row * topk], expected, topk,
                          &pages_[sequence_[row] * page_stride_], what + ", row " + std::to_string(row))) {
        return;
      }
    }
  }

  const Case case_;
  const int num_pages_;
  DeviceArray<uint8_t> keys_;
  std::vector<int32_t> position_;
  std::vector<int32_t> sequence_;
  std::vector<int32_t> pages_;
  std::vector<std::vector<float>> made_;  // of each sequence
  int page_stride_ = 0;
  int longest_ = 0;
  int bound_ = 0;
  double largest_error_ = 0;
};

}  // namespace fulgur::cuda_test
