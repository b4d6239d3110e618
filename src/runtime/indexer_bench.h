#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "runtime/spread.h"

namespace fulgur {

/// The indexer of a published model, as far as its kernels see it.
enum class BenchModel { kV32, kGlm5 };

struct IndexerBench {
  BenchModel model = BenchModel::kV32;
  std::vector<int> tokens = {1, 2, 8, 32, 128};  // of a decode step; multiples of the next
  int tokens_per_sequence = 1;                   // more: drafts to verify
  int context = 8192;                            // at least tokens_per_sequence
  int replays = 21;
  bool own_alone = false;  // neither cuBLASLt's modes nor the kernels for any shape
};

/// Times are microseconds a call, over the replays of one graph of at least 64 calls.
struct BenchLine {
  std::string what;  // "projection", "prepare", "select"; "indexer": the last two in a row
  std::string how;   // "separate", "overlapped", "fused": cuBLASLt; "own", or "any shape"
  int tokens = 0;
  size_t bytes = 0;    // that must be read
  Spread without_pdl;  // programmatic dependent launch
  Spread with_pdl;
  // A cold read of as many bytes in the same run, medians.
  double limit_us = 0;
  double limit_us_with_pdl = 0;
};

/// The indexer's decode step on the GPU: its projections in three modes and by our own kernels, then both its
/// ops, alone and in a row; the selection writes cache slots, too. Weights and pages rotate over at least 200
/// MB, activations stay warm. Each line is handed over when it is measured. Throws `device` where there is no
/// GPU.
void bench_indexer(const IndexerBench& bench, const std::function<void(const BenchLine&)>& take);

}  // namespace fulgur
