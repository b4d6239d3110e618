#include "runtime/scheduler.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace fulgur {
namespace {

/// One more page; where there is no memory for its number, none is taken.
void take_page(PagePool& pool, std::vector<int32_t>& pages) {
  pages.push_back(-1);
  pages.back() = pool.take();
}

}  // namespace

Scheduler::Scheduler(const SchedulerOptions& options, PrefixIndex::Hash hash)
    : options_(options), pool_(options.num_pages, hash) {}

bool Scheduler::fits(int64_t length) const { return pages_for(length) <= options_.num_pages; }

void Scheduler::add(RequestId request, std::vector<int32_t> tokens, bool reuse_prefix) {
  if (tokens.empty() || !fits(static_cast<int64_t>(tokens.size())) ||
      (!sequences_.empty() && sequences_.rbegin()->first >= request)) {
    throw std::logic_error("scheduler: a request without tokens, too long, or out of order");
  }
  Sequence& sequence = sequences_[request];
  sequence.request = request;
  sequence.reuse_prefix = reuse_prefix && options_.prefix_cache;
  sequence.tokens = std::move(tokens);
  waiting_.push_back(&sequence);
}

void Scheduler::remove(RequestId request) {
  const auto found = sequences_.find(request);
  if (found == sequences_.end()) return;
  release_pages(found->second);
  std::erase(waiting_, &found->second);
  std::erase(running_, &found->second);
  sequences_.erase(found);
}

BatchPlan Scheduler::plan() {
  BatchPlan plan;
  plan.chunks.reserve(running_.size());
  int64_t budget = options_.step_tokens;
  for (size_t i = 0; i < running_.size() && budget > 0; ++i) {  // set_back_youngest shortens running_
    Sequence& sequence = *running_[i];
    if (!take_pages(sequence, std::min(sequence.computed + budget, sequence.known()), plan)) break;
    budget -= plan_chunk(sequence, budget, plan);
  }
  for (size_t i = 0; i < plan.chunks.size(); ++i) budget -= plan_drafts(*running_[i], budget, plan.chunks[i]);
  // What was just set back doesn't come in again: it needs more pages than it gave up.
  while (budget > 0 && !waiting_.empty() && static_cast<int>(running_.size()) < options_.max_running) {
    Sequence& sequence = *waiting_.front();
    if (!admit(sequence, plan)) break;
    budget -= plan_chunk(sequence, budget, plan);
  }
  // Else it would wait for ever: nobody is left who could give pages back.
  if (plan.chunks.empty() && !waiting_.empty()) throw std::logic_error("scheduler: pages that nobody holds");
  return plan;
}

bool Scheduler::admit(Sequence& sequence, BatchPlan& plan) {
  if (sequence.reuse_prefix) {
    // The last token is always computed: its logits are wanted.
    sequence.pages = pool_.take_prefix(sequence.tokens, (sequence.known() - 1) / kPageTokens);
  }
  const auto cached = static_cast<int64_t>(sequence.pages.size());
  if (pages_for(sequence.known()) - cached > pool_.num_available()) {
    release_pages(sequence);
    return false;
  }
  sequence.computed = cached * kPageTokens;
  sequence.published = cached;
  while (static_cast<int64_t>(sequence.pages.size()) < pages_for(sequence.known())) {
    take_page(pool_, sequence.pages);
  }
  running_.push_back(&sequence);
  waiting_.pop_front();
  plan.admitted.push_back({sequence.request, sequence.computed});
  return true;
}

/// Gives a running sequence pages up to a length. False where it was the youngest and had to give up its own.
bool Scheduler::take_pages(Sequence& sequence, int64_t length, BatchPlan& plan) {
  while (static_cast<int64_t>(sequence.pages.size()) < pages_for(length)) {
    if (pool_.num_available() > 0) {
      take_page(pool_, sequence.pages);
      continue;
    }
    const bool itself = running_.back() == &sequence;
    if (itself && running_.size() == 1) throw std::logic_error("scheduler: a request that doesn't fit");
    set_back_youngest(plan);
    if (itself) return false;
  }
  return true;
}

void Scheduler::set_back_youngest(BatchPlan& plan) {
  Sequence& youngest = *running_.back();
  running_.pop_back();
  release_pages(youngest);
  youngest.drafts.clear();
  waiting_.push_front(&youngest);
  plan.preempted.push_back(youngest.request);
}

/// Plans what is known of a sequence and not computed; returns the number of tokens.
int64_t Scheduler::plan_chunk(const Sequence& sequence, int64_t budget, BatchPlan& plan) {
  const int64_t count = std::min(budget, sequence.known() - sequence.computed);
  const auto begin = sequence.tokens.begin() + sequence.computed;
  PlannedChunk& chunk = plan.chunks.emplace_back();
  chunk.request = sequence.request;
  chunk.first = sequence.computed;
  chunk.tokens.reserve(static_cast<size_t>(count) + sequence.drafts.size());
  chunk.tokens.assign(begin, begin + count);
  chunk.draws = sequence.computed + count == sequence.known();
  chunk.pages = sequence.pages;
  return count;
}

/// Adds guesses to a chunk while there are budget and pages left over; returns their number.
int64_t Scheduler::plan_drafts(Sequence& sequence, int64_t budget, PlannedChunk& chunk) {
  if (!chunk.draws) return 0;
  for (const int32_t draft : sequence.drafts) {
    if (chunk.num_drafts == budget) break;
    const int64_t length = sequence.known() + chunk.num_drafts + 1;
    if (static_cast<int64_t>(sequence.pages.size()) < pages_for(length)) {
      if (pool_.num_available() == 0) break;
      take_page(pool_, sequence.pages);
      chunk.pages = sequence.pages;
    }
    chunk.tokens.push_back(draft);
    ++chunk.num_drafts;
  }
  return chunk.num_drafts;
}

void Scheduler::complete(const BatchPlan& plan, std::span<const ChunkResult> results) {
  auto at = running_.begin();  // all chunks are of those, in the same order
  for (size_t i = 0; i < plan.chunks.size(); ++i) {
    const PlannedChunk& chunk = plan.chunks[i];
    const ChunkResult& result = results[i];
    while (at != running_.end() && (*at)->request < chunk.request) ++at;
    if (at == running_.end() || (*at)->request != chunk.request) continue;
    Sequence& sequence = **at;
    if (chunk.draws == result.drawn.empty()) throw std::logic_error("scheduler: a token drawn amiss");
    sequence.computed += static_cast<int64_t>(chunk.tokens.size()) - chunk.num_drafts;
    if (chunk.draws) {
      sequence.computed += static_cast<int64_t>(result.drawn.size()) - 1;
      sequence.tokens.insert(sequence.tokens.end(), result.drawn.begin(), result.drawn.end());
      sequence.drafts = result.drafts;
      // Pages of drafts that were wrong.
      const auto keep = static_cast<size_t>(pages_for(sequence.known()));
      if (sequence.pages.size() > keep) {
        pool_.release(std::span(sequence.pages).subspan(keep));
        sequence.pages.resize(keep);
      }
    }
    if (options_.prefix_cache) publish_full_pages(sequence);
  }
}

void Scheduler::publish_full_pages(Sequence& sequence) {
  for (; (sequence.published + 1) * kPageTokens <= sequence.computed; ++sequence.published) {
    const auto i = static_cast<size_t>(sequence.published);
    sequence.pages[i] =
        pool_.publish(sequence.pages[i], i == 0 ? -1 : sequence.pages[i - 1],
                      std::span(sequence.tokens).subspan(i * kPageTokens, static_cast<size_t>(kPageTokens)));
  }
}

void Scheduler::release_pages(Sequence& sequence) {
  pool_.release(sequence.pages);
  sequence.pages.clear();
}

std::span<const int32_t> Scheduler::pages_of(RequestId request) const { return sequences_.at(request).pages; }

}  // namespace fulgur
