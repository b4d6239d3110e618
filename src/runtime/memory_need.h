#pragma once

#include <algorithm>
#include <cstdint>

#include "model/inspection.h"
#include "model/load.h"
#include "runtime/step_scratch.h"

namespace fulgur {

/// What the process takes in memory that runs a model: its peak resident set, with what is read of
/// the weights' files (it is used where it lies or copied, and the page cache's: the system may take it
/// back).
struct MemoryNeed {
  WeightBytes weights;
  uint64_t latents = 0;     // of the paged caches
  uint64_t index_keys = 0;  // likewise
  uint64_t tables = 0;      // rotary angles; with the MTP layer F of each page's end
  uint64_t scratch = 0;     // the arena of steps: activations, what ops work in, logits
  uint64_t host = 0;        // requests, logits that are handed out, what is kept of results
  uint64_t stacks = 0;      // of threads
  uint64_t kernel = 0;      // what the system itself keeps of threads and pages: a control group's alone
  uint64_t reserved = 0;    // address space of threads' stacks, used or not
  uint64_t process = 0;     // program, tokenizer and plan, which it holds already
  uint64_t before = 0;      // the most that it has held, when it read its input say
  /// Another engine over the same weights.
  void add_engine(const MemoryNeed& other);
  [[nodiscard]] uint64_t cache() const { return latents + index_keys; }
  /// What has to be allocated yet.
  [[nodiscard]] uint64_t allocated() const {
    return weights.copied + cache() + tables + scratch + host + stacks + kernel;
  }
  /// Of address space, what limits of the process (ulimit -v, -d) count.
  [[nodiscard]] uint64_t address_space() const { return allocated() - stacks - kernel + reserved; }
  [[nodiscard]] uint64_t total() const {
    return std::max(before, weights.mapped + weights.sources + allocated() - kernel + process);
  }
};

/// Of a plan, before it is loaded. What the MTP layer takes is in it where the options run it. Where the plan
/// has problems, or the catalog gaps, steps aren't looked at: scratch is 0.
MemoryNeed memory_need(const Config& config, const ModelPlan& plan, const Catalog& catalog,
                       const RunnerOptions& options, const RunSize& size);

/// Throws bad_request where selecting on so many threads takes more than `bytes` even in the smallest pieces.
void check_index_scratch(int64_t bytes, const Config& config, int threads, const Backend& backend);

/// Throws bad_request where what has to be allocated is more than the memory, or the address space, that is
/// available; none of it has been by then.
void check_fits(const MemoryNeed& need);

}  // namespace fulgur
