// Checks the tuned kernels of the indexer's selection on a GPU, against oracles in double that know the spec
// alone: exact top-k of given scores on hard inputs, and the fused decode kernel, the row scores and the
// prompt scores. Prints a line a group and exits with 1 if anything was wrong.

#include <cstring>
#include <string>

#include "cuda/select_oracle.h"
#include "cuda/select_setup.cuh"

namespace fulgur::cuda_test {
namespace {

using cuda::IndexForm;
using cuda::LaunchOptions;

int failures = 0;

void fail(const std::string& what) {
  ++failures;
  if (failures <= 40) std::printf("WRONG %s\n", what.c_str());
  std::fflush(stdout);
}

/// One row's selection against the positions it should be.
bool same_selection(const int32_t* positions, const int32_t* slots, const std::vector<int32_t>& expected,
                    int topk, const int32_t* pages, const std::string& what) {
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

// ---- exact top-k of given scores ----

void check_topk(const std::vector<int>& lengths, int topk, const std::vector<LaunchOptions>& ways) {
  const int rows = static_cast<int>(lengths.size()) * kScoreKinds;
  const int longest = *std::max_element(lengths.begin(), lengths.end());
  const int64_t stride = (longest + 3) / 4 * 4;
  const int page_stride = (longest + 63) / 64;
  std::vector<float> scores(rows * stride, NAN);
  std::vector<int32_t> position(rows);
  std::vector<int32_t> sequence(rows);
  std::vector<int32_t> pages(static_cast<size_t>(rows) * page_stride);
  std::vector<std::vector<int32_t>> expected(rows);
  for (int row = 0; row < rows; ++row) {
    const int length = lengths[row / kScoreKinds];
    const auto kind = static_cast<Scores>(row % kScoreKinds);
    position[row] = length - 1;
    sequence[row] = rows - 1 - row;
    for (int s = 0; s < length; ++s) {
      scores[row * stride + s] = score_at(77, static_cast<uint64_t>(row) * stride + s, s, length, kind);
    }
    if (kind == Scores::kNan && length <= topk) {
      expected[row].resize(length);  // not looked at
      std::iota(expected[row].begin(), expected[row].end(), 0);
    } else {
      expected[row] =
          best_positions(std::vector<float>(&scores[row * stride], &scores[row * stride] + length), topk);
    }
  }
  for (size_t i = 0; i < pages.size(); ++i) pages[i] = static_cast<int32_t>(word_at(5, i) % 100000);
  const DeviceArray<float> device_scores(scores);
  const DeviceArray<int32_t> device_position(position);
  const DeviceArray<int32_t> device_sequence(sequence);
  const DeviceArray<int32_t> device_pages(pages);
  DeviceArray<int32_t> positions(static_cast<size_t>(rows) * topk);
  DeviceArray<int32_t> slots(static_cast<size_t>(rows) * topk);
  DeviceArray<uint32_t> fault(rows);
  const cuda::TopkArguments arguments{
      device_scores.get(),
      stride,
      {device_position.get(), device_sequence.get(), device_pages.get(), page_stride, rows, longest},
      {topk, positions.get(), slots.get(), fault.get()}};
  for (const LaunchOptions& way : ways) {
    if (way.cluster > 0 && longest > 32768 * way.cluster) continue;
    positions.poison();
    slots.poison();
    must(cudaMemset(fault.get(), 0, rows * 4), "memset");
    must(cuda::launch_topk(arguments, way), "launch_topk");
    must(cudaDeviceSynchronize(), "topk");
    const auto got = positions.download();
    const auto got_slots = slots.download();
    const auto faults = fault.download();
    for (int row = 0; row < rows; ++row) {
      const std::string what = "topk " + std::to_string(topk) + " of " + std::to_string(position[row] + 1) +
                               ", kind " + std::to_string(row % kScoreKinds) + ", cluster " +
                               std::to_string(way.cluster) + ", threads " + std::to_string(way.threads);
      same_selection(&got[static_cast<size_t>(row) * topk], &got_slots[static_cast<size_t>(row) * topk],
                     expected[row], topk, &pages[static_cast<size_t>(sequence[row]) * page_stride], what);
      if ((faults[sequence[row]] != 0) != expected[row].empty()) fail(what + ": fault bit");
    }
  }
  std::printf("topk %d, %d rows up to %d, %zu ways\n", topk, rows, longest, ways.size());
  std::fflush(stdout);
}

// ---- scores ----

struct Case {
  const char* name;
  IndexForm form;
  int heads;
  Codes codes;
  int topk;
  int tokens_per_sequence;
  std::vector<int> contexts;  // of each sequence, its new tokens included
  std::vector<int> tokens;    // new tokens of each sequence
  std::vector<int> clusters;
  int sampled = 1 << 30;  // positions of a row that the oracle looks at
  int nan_row = -1;       // its head weights hold a NaN
};

class Check {
 public:
  explicit Check(const Case& c)
      : case_(c), num_pages_(pages_of(c)), keys_(static_cast<size_t>(num_pages_) * cuda::page_bytes(c.form)) {
    for (size_t s = 0; s < c.contexts.size(); ++s) {
      for (int i = 0; i < c.tokens[s]; ++i) {
        position_.push_back(c.contexts[s] - c.tokens[s] + i);
        sequence_.push_back(static_cast<int32_t>(s));
      }
      longest_ = std::max(longest_, c.contexts[s]);
    }
    page_stride_ = (longest_ + 63) / 64;
    pages_.assign(c.contexts.size() * page_stride_, 0);
    const auto order = scattered(num_pages_, 3);
    int used = 0;
    for (size_t s = 0; s < c.contexts.size(); ++s) {
      for (int p = 0; p * 64 < c.contexts[s]; ++p) pages_[s * page_stride_ + p] = order[used++];
    }
    fill_keys<<<1024, kDim>>>(keys_.get(), num_pages_, c.form, c.codes);
    must(cudaDeviceSynchronize(), "fill_keys");
  }

  void run() {
    const int rows = static_cast<int>(position_.size());
    const int64_t stride = (longest_ + 63) / 64 * 64;
    const int q_bytes = case_.heads * kDim * (case_.form == IndexForm::kE4m3 ? 1 : 2);
    DeviceArray<uint8_t> q(static_cast<size_t>(rows) * q_bytes);
    DeviceArray<float> weights(static_cast<size_t>(rows) * case_.heads);
    fill_queries<<<1024, kDim>>>(q.get(), weights.get(), rows, case_.heads, case_.form, case_.codes);
    must(cudaDeviceSynchronize(), "fill_queries");
    if (case_.nan_row >= 0) {
      const float nan = NAN;
      must(cudaMemcpy(weights.get() + case_.nan_row * case_.heads + 3, &nan, 4, cudaMemcpyHostToDevice),
           "nan");
    }
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
         {position.get(), sequence.get(), pages.get(), page_stride_, rows, longest_}},
        case_.form,
        case_.heads,
        case_.tokens_per_sequence,
        {case_.topk, positions.get(), slots.get(), fault.get()},
        nullptr,
        stride};
    must(cudaMemset(fault.get(), 0, fault.size() * 4), "memset");

    std::vector<float> first;  // the first way's scores: all others must give the same bits
    for (const int cluster : case_.clusters) {
      for (const bool dumps : {true, false}) {
        LaunchOptions options;
        options.cluster = cluster;
        options.early_keys = !dumps;
        options.pdl = !dumps;
        arguments.dump = dumps ? dump.get() : nullptr;
        positions.poison();
        slots.poison();
        dump.poison(0xFF);
        const cudaError_t status = cuda::launch_decode(arguments, options);
        if (status == cudaErrorInvalidValue && !cuda::decode_takes(arguments, cluster)) {
          std::printf("  %s: cluster %d doesn't fit\n", case_.name, cluster);
          break;
        }
        must(status, "launch_decode");
        must(cudaDeviceSynchronize(), case_.name);
        const std::string what = std::string(case_.name) + ", cluster " + std::to_string(cluster);
        if (dumps) {
          const auto scores = dump.download();
          if (first.empty()) {
            first = scores;
            check_scores(scores, stride);
          } else {
            same_bits(first, scores, stride, what);
          }
        }
        check_selection(positions.download(), slots.download(), first, stride,
                        what + (dumps ? ", dumps" : ""));
      }
    }
    DeviceArray<uint8_t> scratch(cuda::prompt_scratch_bytes(case_.form, case_.heads, rows));
    for (const bool prompt : {false, true}) {
      dump.poison(0xFF);
      const cudaError_t status = prompt
                                     ? cuda::launch_prompt_scores(arguments.scores, case_.form, case_.heads,
                                                                  scratch.get(), dump.get(), stride, {})
                                     : cuda::launch_row_scores(arguments, dump.get(), stride, {});
      must(status, prompt ? "launch_prompt_scores" : "launch_row_scores");
      must(cudaDeviceSynchronize(), prompt ? "prompt scores" : "row scores");
      const std::string what = std::string(case_.name) + (prompt ? ", prompt scores" : ", row scores");
      if (first.empty()) {
        first = dump.download();
        check_scores(first, stride);
      } else {
        same_bits(first, dump.download(), stride, what);
      }
      positions.poison();
      slots.poison();
      must(cuda::launch_topk({dump.get(), stride, arguments.scores.rows, arguments.out}, {}), "launch_topk");
      must(cudaDeviceSynchronize(), "topk of scores");
      check_selection(positions.download(), slots.download(), first, stride, what);
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

  void same_bits(const std::vector<float>& a, const std::vector<float>& b, int64_t stride,
                 const std::string& what) {
    for (size_t row = 0; row < position_.size(); ++row) {
      for (int s = 0; s <= position_[row]; ++s) {
        if (position_[row] < case_.topk) break;  // need not be scored
        if (std::memcmp(&a[row * stride + s], &b[row * stride + s], 4) != 0) {
          fail(what + ": row " + std::to_string(row) + ", score " + std::to_string(s) + " is " +
               std::to_string(b[row * stride + s]) + ", elsewhere " + std::to_string(a[row * stride + s]));
          return;
        }
      }
    }
  }

  void check_scores(const std::vector<float>& scores, int64_t stride) {
    const bool exact = case_.codes != Codes::kReal;
    std::vector<double> q(static_cast<size_t>(case_.heads) * kDim);
    std::vector<double> weights(case_.heads);
    std::vector<double> key(kDim);
    for (size_t row = 0; row < position_.size(); ++row) {
      if (position_[row] < case_.topk || static_cast<int>(row) == case_.nan_row) continue;
      for (size_t i = 0; i < q.size(); ++i)
        q[i] = e4m3_value(code_at(kQuerySeed, row * q.size() + i, case_.codes));
      for (int h = 0; h < case_.heads; ++h)
        weights[h] = weight_at(kWeightSeed, row * case_.heads + h, case_.codes);
      const int length = position_[row] + 1;
      const int step = std::max(1, length / case_.sampled);
      for (int s = length - 1; s >= 0; s -= step) {
        const uint64_t global =
            static_cast<uint64_t>(pages_[sequence_[row] * page_stride_ + s / 64]) * 64 + s % 64;
        for (int d = 0; d < kDim; ++d) key[d] = e4m3_value(code_at(kKeySeed, global * kDim + d, case_.codes));
        const double scale = case_.form == IndexForm::kE4m3 ? scale_at(kScaleSeed, global, case_.codes) : 1.0;
        const ReferenceScore reference = reference_score(q, weights, key.data(), kDim, scale);
        const float score = scores[row * stride + s];
        // e4m3: each step of 32 keeps about 14 bits of its largest summand, so each of 4 x 33 summands is cut
        // by at most 2^-13 of the largest, which is at most the sum of magnitudes. bf16: f32 sums of 128
        // and 64.
        const double limit =
            exact ? 0 : reference.magnitude * (case_.form == IndexForm::kE4m3 ? 0x1p-9 : 0x1p-16);
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
                       const std::vector<float>& scores, int64_t stride, const std::string& what) {
    const int topk = case_.topk;
    for (size_t row = 0; row < position_.size(); ++row) {
      std::vector<int32_t> expected(position_[row] + 1);
      std::iota(expected.begin(), expected.end(), 0);
      if (position_[row] >= topk) {
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
  int page_stride_ = 0;
  int longest_ = 0;
  double largest_error_ = 0;
};

std::vector<Case> cases(bool small) {
  const auto e4m3 = IndexForm::kE4m3;
  const auto bf16 = IndexForm::kBf16;
  if (small) {
    return {{"small e4m3", e4m3, 64, Codes::kIntegers, 64, 1, {300, 64, 129}, {1, 1, 1}, {1, 2}},
            {"small drafts", e4m3, 32, Codes::kReal, 64, 2, {300, 200}, {2, 2}, {1, 2}},
            {"small bf16", bf16, 64, Codes::kReal, 64, 1, {200}, {1}, {2}}};
  }
  return {
      {"e4m3 integers, ragged",
       e4m3,
       64,
       Codes::kIntegers,
       2048,
       1,
       {8192, 2049, 2048, 1, 5000, 7777, 64, 8129},
       {1, 1, 1, 1, 1, 1, 1, 1},
       {0, 1, 2, 4, 8, 16},
       600},
      {"e4m3 ties", e4m3, 64, Codes::kTies, 2048, 1, {8192, 4000, 2050}, {1, 1, 1}, {1, 4, 16}, 300},
      {"e4m3 real", e4m3, 64, Codes::kReal, 2048, 1, {8192, 6000, 3001}, {1, 1, 1}, {1, 2, 4, 8, 16}, 500},
      {"e4m3 32 heads", e4m3, 32, Codes::kIntegers, 2048, 1, {8192, 4097}, {1, 1}, {1, 4, 16}, 500},
      {"e4m3 drafts of 2",
       e4m3,
       64,
       Codes::kIntegers,
       2048,
       2,
       {8192, 2049, 3000},
       {2, 2, 2},
       {1, 4, 16},
       300},
      {"e4m3 drafts of 3", e4m3, 64, Codes::kReal, 2048, 3, {8192, 2500}, {3, 3}, {2, 8}, 200},
      {"e4m3 ragged drafts",
       e4m3,
       64,
       Codes::kTies,
       512,
       4,
       {5000, 700, 3000, 900},
       {4, 1, 3, 2},
       {1, 2, 8},
       300},
      {"e4m3 small topk", e4m3, 64, Codes::kReal, 5, 1, {1000, 6, 5, 4}, {1, 1, 1, 1}, {1, 2, 4}, 300},
      {"bf16 integers", bf16, 64, Codes::kIntegers, 2048, 1, {8192, 2100}, {1, 1}, {1, 4, 16}, 300},
      {"bf16 real, 32 heads", bf16, 32, Codes::kReal, 2048, 2, {6000, 2100}, {2, 2}, {1, 8}, 300},
      {"e4m3 with a NaN", e4m3, 64, Codes::kReal, 512, 2, {3000, 4000, 2000}, {2, 2, 1}, {1, 4}, 100, 2},
      {"e4m3 128k", e4m3, 64, Codes::kTies, 2048, 1, {131072, 100000}, {1, 1}, {0, 4, 8, 16}, 100},
      {"e4m3 prompt", e4m3, 64, Codes::kIntegers, 512, 1, {900, 1000}, {900, 150}, {1}, 20},
      {"e4m3 real prompt", e4m3, 64, Codes::kReal, 256, 1, {700}, {301}, {1}, 20},
      {"bf16 prompt", bf16, 64, Codes::kReal, 256, 4, {500, 333}, {500, 20}, {1}, 20},
      {"e4m3 prompt, 32 heads", e4m3, 32, Codes::kTies, 256, 4, {700}, {300}, {1}, 20},
  };
}

int main_of(bool small) {
  const auto way = [](int cluster, int threads) {
    LaunchOptions options;
    options.cluster = cluster;
    options.threads = threads;
    return options;
  };
  if (small) {
    check_topk({1, 63, 64, 65, 300}, 64, {way(1, 512), way(2, 512), way(1, 1024)});
  } else {
    const std::vector<LaunchOptions> all = {way(0, 0),    way(1, 512), way(1, 1024), way(2, 512),
                                            way(4, 1024), way(8, 512), way(16, 512)};
    check_topk({1, 2047, 2048, 2049, 2050, 4097, 8191, 8192}, 2048, all);
    check_topk({5, 100, 1000, 12345}, 5, all);
    check_topk({32768, 30001}, 2048, all);
    check_topk({131072, 120005}, 2048, {way(0, 0), way(4, 1024), way(8, 512), way(16, 1024)});
  }
  for (const Case& c : cases(small)) Check(c).run();
  std::printf("%s: %d wrong\n", failures == 0 ? "PASSED" : "FAILED", failures);
  return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace fulgur::cuda_test

int main(int argc, char** argv) {
  return fulgur::cuda_test::main_of(argc > 1 && std::strcmp(argv[1], "--small") == 0);
}
