#include "runtime/drafter.h"

#include <algorithm>
#include <numeric>
#include <span>
#include <utility>

#include "ops/backend.h"
#include "ops/sample.h"
#include "runtime/logits_rows.h"

namespace fulgur {
namespace {

std::byte* row_of(const Operand& hidden, size_t row) {
  return static_cast<std::byte*>(hidden.data) +
         row * static_cast<size_t>(hidden.cols) * size_bytes(hidden.dtype);
}

/// Of each sequence, whether something was NaN.
std::vector<uint32_t> faults_of(const Step& step) {
  std::vector<uint32_t> fault(static_cast<size_t>(step.batch.num_sequences));
  step.context.backend->download(fault.data(), step.batch.fault, fault.size() * sizeof(uint32_t));
  return fault;
}

bool has_page(const PlannedChunk& chunk, int64_t position) {
  return position < static_cast<int64_t>(chunk.pages.size()) * kPageTokens;
}

}  // namespace

/// A batch of the MTP layer.
struct Drafter::Pairs {
  struct Wanted {
    int32_t row = 0;  // whose logits make the guess
    size_t chunk = 0;
    int64_t position = 0;  // of that row
  };
  std::vector<End> ends;
  std::vector<int32_t> token;
  std::vector<int32_t> position;
  std::vector<int32_t> sequence;  // the chunk
  std::vector<int32_t> previous;  // the row of F that goes with each token
  std::vector<Wanted> wanted;

  void reserve(size_t rows) {
    for (std::vector<int32_t>* const of : {&token, &position, &sequence, &previous}) of->reserve(rows);
  }
  void add(int32_t id, int64_t at, size_t chunk, size_t from) {
    token.push_back(id);
    position.push_back(static_cast<int32_t>(at));
    sequence.push_back(static_cast<int32_t>(chunk));
    previous.push_back(static_cast<int32_t>(from));
  }
  /// Takes away those after which nothing is guessed.
  Pairs take_unwanted() {
    Pairs unwanted;
    Pairs kept;
    unwanted.reserve(token.size());
    kept.reserve(wanted.size());
    size_t next = 0;  // of `wanted`, whose rows ascend
    for (size_t i = 0; i < token.size(); ++i) {
      const bool keep = next < wanted.size() && wanted[next].row == static_cast<int32_t>(i);
      Pairs& to = keep ? kept : unwanted;
      if (keep) wanted[next++].row = static_cast<int32_t>(kept.token.size());
      to.add(token[i], position[i], static_cast<size_t>(sequence[i]), static_cast<size_t>(previous[i]));
    }
    kept.wanted = std::move(wanted);
    *this = std::move(kept);
    return unwanted;
  }
};

Drafter::Drafter(const LoadedModel& model, DType operand_dtype, int num_pages, int num_drafts,
                 ModelTime& time)
    : config_(model.config),
      mtp_(model.config, model.weights),
      num_drafts_(num_drafts),
      time_(time),
      row_bytes_(static_cast<size_t>(model.config.hidden_size) * size_bytes(operand_dtype)),
      page_ends_(static_cast<size_t>(num_pages) * row_bytes_) {}

void Drafter::place_earlier(const BatchPlan& plan, const Operand& hidden, const Backend& backend) {
  text_of_chunk_.clear();
  for (size_t i = 0; i < plan.chunks.size(); ++i) {
    const PlannedChunk& chunk = plan.chunks[i];
    Text& text = texts_[chunk.request];
    text_of_chunk_.push_back(&text);
    if (chunk.first < Mtp::kFirstPosition) continue;
    const std::byte* const last =
        !text.last.empty() ? text.last.data() : page_ends_.data() + page_end(chunk, chunk.first - 1);
    backend.upload(row_of(hidden, i), last, row_bytes_);
  }
}

/// Where F of a page's last position is kept.
size_t Drafter::page_end(const PlannedChunk& chunk, int64_t position) const {
  return static_cast<size_t>(chunk.pages[static_cast<size_t>(position / kPageTokens)]) * row_bytes_;
}

Drafter::Pairs Drafter::pairs_of(const BatchPlan& plan, const std::vector<ChunkRun>& runs,
                                 const Step& main) const {
  Pairs pairs;
  pairs.reserve(static_cast<size_t>(plan.num_tokens()) + plan.chunks.size());
  pairs.ends.reserve(plan.chunks.size());
  pairs.wanted.reserve(plan.chunks.size());
  std::vector<int32_t> known;
  size_t first_row = plan.chunks.size();
  for (size_t i = 0; i < plan.chunks.size(); ++i) {
    const PlannedChunk& chunk = plan.chunks[i];
    const size_t row = first_row;
    first_row += chunk.tokens.size();
    if (runs[i].fault == ChunkFault::kNanScore) continue;
    known.assign(chunk.tokens.begin(), chunk.tokens.end() - chunk.num_drafts);
    known.insert(known.end(), runs[i].drawn.begin(), runs[i].drawn.end());
    const size_t computed = known.size() - (chunk.draws ? 1 : 0);  // the last one drawn is yet to run
    if (num_drafts_ == 0 || runs[i].fault != ChunkFault::kNone) known.resize(computed);
    const Text& text = *text_of_chunk_[i];
    int64_t paired = !text.last.empty() ? text.paired : chunk.first;
    for (size_t j = 0; j < known.size(); ++j) {
      const int64_t position = chunk.first + static_cast<int64_t>(j);
      if (position < std::max<int64_t>(paired, Mtp::kFirstPosition)) continue;
      if (!has_page(chunk, position) || position >= main.rope.cos.rows) break;
      pairs.add(known[j], position, i, j == 0 ? i : row + j - 1);
      paired = position + 1;
      if (j == computed) {
        pairs.wanted.push_back({static_cast<int32_t>(pairs.token.size()) - 1, i, position});
      }
    }
    pairs.ends.push_back({.chunk = i, .row = row, .computed = computed, .paired = paired});
  }
  return pairs;
}

/// Keeps what the next chunks need of this step's: of all or, if it throws, of none. A page's end is the same
/// when its step is run again.
void Drafter::keep(const std::vector<End>& ends, const BatchPlan& plan, const Operand& hidden,
                   const Backend& backend) {
  kept_.resize(ends.size() * row_bytes_);
  std::byte* last = kept_.data();
  for (const auto& [i, row, computed, paired] : ends) {
    const PlannedChunk& chunk = plan.chunks[i];
    text_of_chunk_[i]->last.reserve(row_bytes_);
    backend.download(last, row_of(hidden, row + computed - 1), row_bytes_);
    last += row_bytes_;
    const int64_t end = chunk.first + static_cast<int64_t>(computed);
    for (int64_t after = (chunk.first / kPageTokens + 1) * kPageTokens; after <= end; after += kPageTokens) {
      backend.download(page_ends_.data() + page_end(chunk, after - 1),
                       row_of(hidden, row + static_cast<size_t>(after - 1 - chunk.first)), row_bytes_);
    }
  }
  last = kept_.data();
  for (const End& end : ends) {  // nothing throws from here on
    Text& text = *text_of_chunk_[end.chunk];
    text.paired = end.paired;
    text.last.assign(last, last + row_bytes_);
    last += row_bytes_;
  }
}

/// The logits of all pairs for who looks on. What is NaN fails.
void Drafter::show(Step& step, const Operand& out, StepObserver& observer,
                   std::vector<ChunkRun>& runs) const {
  Context& context = step.context;
  std::vector<int32_t> all(static_cast<size_t>(out.rows));
  std::iota(all.begin(), all.end(), 0);
  for_logits_rows(std::span<const int32_t>(all), [&](std::span<const int32_t> rows) {
    const ArenaScope scope(*context.arena);
    const auto logits = context.arena->matrix<float>(static_cast<int64_t>(rows.size()), config_.vocab_size);
    mtp_.lm_head(step, out, context.arena->upload(rows), logits);
    observer.mtp_logits(logits);
  });
  const std::vector<uint32_t> fault = faults_of(step);
  for (size_t i = 0; i < fault.size(); ++i) {
    if (fault[i] != 0) runs[i].fault = ChunkFault::kNanScore;
  }
}

/// Draws a guess for each row that wants one; returns the pairs of these guesses.
Drafter::Pairs Drafter::guess(Step& step, const Operand& out, const Pairs& pairs, const BatchPlan& plan,
                              std::vector<ChunkRun>& runs) const {
  Context& context = step.context;
  Pairs next;
  if (pairs.wanted.empty()) return next;

  std::vector<int32_t> rows;
  std::vector<int32_t> position;
  rows.reserve(pairs.wanted.size());
  position.reserve(pairs.wanted.size());
  for (const Pairs::Wanted& wanted : pairs.wanted) {
    rows.push_back(wanted.row);
    position.push_back(static_cast<int32_t>(wanted.position + 1));
  }
  const auto logits = context.arena->matrix<float>(static_cast<int64_t>(rows.size()), config_.vocab_size);
  const int32_t* const uploaded = context.arena->upload(rows);
  time_.of([&] { mtp_.lm_head(step, out, uploaded, logits); });
  auto* token = context.arena->allocate_array<int32_t>(logits.rows);
  run(context, Sample{logits, context.arena->upload(std::vector<SamplingParams>(rows.size())),
                      context.arena->upload(position), token});
  std::vector<int32_t> drawn(rows.size());
  context.backend->download(drawn.data(), token, drawn.size() * sizeof(int32_t));
  const std::vector<uint32_t> fault = faults_of(step);
  for (size_t i = 0; i < drawn.size(); ++i) {
    const auto& [row, chunk, at] = pairs.wanted[i];
    const int64_t after = at + 1;
    if (drawn[i] < 0 || fault[chunk] != 0 || after >= step.rope.cos.rows) continue;
    std::vector<int32_t>& drafts = runs[chunk].drafts;
    if (drafts.empty()) drafts.reserve(static_cast<size_t>(num_drafts_));
    drafts.push_back(drawn[i]);
    const bool was_last = std::ssize(drafts) == num_drafts_;
    if (was_last || !has_page(plan.chunks[chunk], after)) continue;
    next.wanted.push_back({static_cast<int32_t>(next.token.size()), chunk, after});
    next.add(drawn[i], after, chunk, static_cast<size_t>(row));
  }
  return next;
}

void Drafter::draft(const Step& main, const Operand& hidden, const BatchPlan& plan,
                    std::vector<ChunkRun>& runs) {
  Pairs pairs = pairs_of(plan, runs, main);
  const std::vector<End> ends = std::move(pairs.ends);
  Arena& arena = *main.context.arena;
  const auto with_step = [&](const Pairs& of, StepObserver* observer, const auto& use) {
    const std::vector<uint32_t> no_fault(plan.chunks.size(), 0);
    TokenBatch tokens = main.batch;
    tokens.num_tokens = static_cast<int>(of.token.size());
    tokens.max_context = *std::ranges::max_element(of.position) + 1;
    tokens.first_position = Mtp::kFirstPosition;
    tokens.token = arena.upload(of.token);
    tokens.position = arena.upload(of.position);
    tokens.sequence = arena.upload(of.sequence);
    tokens.fault = arena.upload(no_fault);
    Step step{.context = main.context,
              .batch = tokens,
              .rope = main.rope,
              .caches = main.caches,
              .operand_dtype = main.operand_dtype,
              .projection = main.projection,
              .observer = observer};
    use(step, arena.upload(of.previous));
  };
  if (main.observer == nullptr) {  // who looks on sees all pairs
    const Pairs cached = pairs.take_unwanted();
    if (!cached.token.empty()) {
      with_step(cached, nullptr, [&](Step& step, const int32_t* previous) {
        time_.of([&] { mtp_.fill_caches(step, hidden, previous); });
      });
    }
  }
  Operand from = hidden;
  for (int i = 0; i < std::max(1, num_drafts_) && !pairs.token.empty(); ++i) {
    with_step(pairs, i == 0 ? main.observer : nullptr, [&](Step& step, const int32_t* previous) {
      const Operand out = time_.of([&] { return mtp_.forward(step, from, previous); });
      if (step.observer != nullptr && step.observer->wants_mtp_logits())
        show(step, out, *step.observer, runs);
      pairs = guess(step, out, pairs, plan, runs);
      from = out;
    });
  }
  keep(ends, plan, hidden, *main.context.backend);  // in the end: a step that throws is run again
}

}  // namespace fulgur
