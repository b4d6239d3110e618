#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <span>
#include <vector>

#include "runtime/batch_plan.h"
#include "runtime/page_pool.h"

namespace fulgur {

struct SchedulerOptions {
  int num_pages = 0;
  int64_t step_tokens = 512;  // most tokens of a step
  int max_running = 256;      // requests that hold pages at once
  bool prefix_cache = true;   // requests may share the pages of equal prefixes
};

/// What a step made of a planned chunk.
struct ChunkResult {
  std::vector<int32_t> drawn;   // if it draws: the drafts that were right, and the token after them
  std::vector<int32_t> drafts;  // guesses at what follows, for the next step
};

/// Decides what each step runs: pure logic, without threads, clock or model (docs/design.md, section 5).
///
/// Requests are served in order of arrival. One is admitted when there are pages for all of its tokens, less
/// those of the prefix that is cached. It then holds them until it ends, taking a page more where its text
/// grows into one. If there is none, the youngest running request is set back: it gives all its pages up and
/// waits, in front of those that came after it, to be computed again from its known tokens. So the oldest
/// always goes on.
///
/// A step takes the known tokens of the running requests, oldest first, while the budget lasts, then drafts,
/// then it admits. Only the youngest running request can have more than its last token to compute, so
/// decoding never waits for prompts.
class Scheduler {
 public:
  explicit Scheduler(const SchedulerOptions& options, PrefixIndex::Hash hash = chain_hash);

  /// Whether a request that grows to `length` tokens can ever end.
  [[nodiscard]] bool fits(int64_t length) const;
  /// At least one token; ids ascend in order of arrival. `reuse_prefix`: may begin after a cached prefix.
  void add(RequestId request, std::vector<int32_t> tokens, bool reuse_prefix = true);
  /// It ended, failed or was cancelled, at any time but while the step that holds it runs. What that step
  /// computed is not shared unless complete() came first.
  void remove(RequestId request);

  /// The next step. Its chunks are empty only if no request is left. One plan at a time: complete() it.
  BatchPlan plan();
  /// The planned step has run; `results` are parallel to its chunks. Those of requests that were removed
  /// since are ignored. Without results (it failed) nothing but remove() and plan() need be called: the next
  /// plan holds the same tokens.
  void complete(const BatchPlan& plan, std::span<const ChunkResult> results);

  [[nodiscard]] bool empty() const { return sequences_.empty(); }
  [[nodiscard]] size_t num_waiting() const { return waiting_.size(); }
  [[nodiscard]] size_t num_running() const { return running_.size(); }
  [[nodiscard]] const PagePool& pages() const { return pool_; }
  /// The pages that a request holds, in order of position.
  [[nodiscard]] std::span<const int32_t> pages_of(RequestId request) const;

 private:
  struct Sequence {
    RequestId request = 0;
    bool reuse_prefix = true;
    std::vector<int32_t> tokens;  // known
    std::vector<int32_t> drafts;  // guesses at what follows them
    std::vector<int32_t> pages;
    int64_t computed = 0;   // tokens in the caches
    int64_t published = 0;  // pages that can be found

    [[nodiscard]] int64_t known() const { return static_cast<int64_t>(tokens.size()); }
  };

  bool admit(Sequence& sequence, BatchPlan& plan);
  bool take_pages(Sequence& sequence, int64_t length, BatchPlan& plan);
  void set_back_youngest(BatchPlan& plan);
  static int64_t plan_chunk(const Sequence& sequence, int64_t budget, BatchPlan& plan);
  int64_t plan_drafts(Sequence& sequence, int64_t budget, PlannedChunk& chunk);
  void publish_full_pages(Sequence& sequence);
  void release_pages(Sequence& sequence);

  SchedulerOptions options_;
  PagePool pool_;
  std::map<RequestId, Sequence> sequences_;
  std::deque<Sequence*> waiting_;  // both in order of arrival, and all that run came before all that wait
  std::vector<Sequence*> running_;
};

}  // namespace fulgur
