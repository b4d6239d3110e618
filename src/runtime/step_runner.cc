#include "runtime/step_runner.h"

#include <algorithm>
#include <utility>

#include "base/thread_stack.h"
#include "ops/linear.h"
#include "runtime/choose_backend.h"
#include "runtime/logits_rows.h"
#include "runtime/memory_need.h"

namespace fulgur {
namespace {

/// Between looks at the checkpoint's files, of which there may be hundreds: a step can take 200 us.
constexpr std::chrono::milliseconds kFileCheckInterval{100};

}  // namespace

/// A token whose logits are wanted.
struct StepRunner::Row {
  int32_t row = 0;  // in the step
  size_t chunk = 0;
  int64_t position = 0;
  int num_drafts = 0;  // of the chunk, up to this token; negative before the last known one
};

StepRunner::StepRunner(const LoadedModel& model, const RunnerOptions& options)
    : model_(model),
      options_(options),
      backend_(options.backend != nullptr ? *options.backend : choose_backend()),
      team_(options.threads),
      arena_(backend_),
      context_{.backend = &backend_,
               .team = &team_,
               .arena = &arena_,
               .profile = options.profile ? &profile_ : nullptr,
               .index_scratch_bytes = options.index_scratch_bytes},
      pool_(model.config, options.runs_mtp(),
            cache_dtypes(options.cache_forms, model.config, options.precision, backend_), options.num_pages,
            backend_, team_),
      rope_(model.config, int64_t{options.num_pages} * kPageTokens, backend_),
      decoder_(model.config, model.weights) {
  check_index_scratch(options.index_scratch_bytes, model.config, options.threads, backend_);
  if (options.scratch_bytes > 0) arena_.reserve(options.scratch_bytes, team_);
  host_logits_.resize(static_cast<size_t>(options.host_logits_rows * model.config.vocab_size));
  check_stack_room(backend_.stack_bytes);
  team_.run([&](int) { settle_stack(backend_.stack_bytes); });
  if (options.runs_mtp())
    drafter_.emplace(model, operand_dtype(options.precision), options.num_pages, options.num_drafts,
                     model_time_);
}

TokenBatch StepRunner::upload_batch(const BatchPlan& plan) {
  std::vector<int32_t> token;
  std::vector<int32_t> position;
  std::vector<int32_t> sequence;
  const auto num_tokens = static_cast<size_t>(plan.num_tokens());
  for (std::vector<int32_t>* const row : {&token, &position, &sequence}) row->reserve(num_tokens);
  size_t max_pages = 0;
  for (const PlannedChunk& chunk : plan.chunks) max_pages = std::max(max_pages, chunk.pages.size());
  std::vector<int32_t> pages(plan.chunks.size() * max_pages, -1);
  for (size_t i = 0; i < plan.chunks.size(); ++i) {
    const PlannedChunk& chunk = plan.chunks[i];
    for (size_t t = 0; t < chunk.tokens.size(); ++t) {
      token.push_back(chunk.tokens[t]);
      position.push_back(static_cast<int32_t>(chunk.first + static_cast<int64_t>(t)));
      sequence.push_back(static_cast<int32_t>(i));
    }
    std::ranges::copy(chunk.pages, pages.begin() + static_cast<std::ptrdiff_t>(i * max_pages));
  }
  const std::vector<uint32_t> fault(plan.chunks.size(), 0);
  return {.num_tokens = static_cast<int>(token.size()),
          .num_sequences = static_cast<int>(plan.chunks.size()),
          .max_context = *std::ranges::max_element(position) + 1,
          .token = arena_.upload(token),
          .position = arena_.upload(position),
          .sequence = arena_.upload(sequence),
          .pages = {arena_.upload(pages), static_cast<int64_t>(plan.chunks.size()),
                    static_cast<int64_t>(max_pages)},
          .fault = arena_.upload(fault)};
}

std::vector<ChunkRun> StepRunner::run(const BatchPlan& plan, std::span<const ChunkOutput> outputs) {
  model_time_.count_step();
  const ArenaScope scope(arena_);
  const TokenBatch tokens = upload_batch(plan);
  Step step{.context = context_,
            .batch = tokens,
            .rope = rope_.view(),
            .caches = pool_.layers(),
            .operand_dtype = operand_dtype(options_.precision),
            .projection = options_.projection,
            .selection = options_.selection,
            .observer = options_.observer};
  // With drafts, behind F of the token before each chunk.
  const int64_t num_earlier = drafter_ ? tokens.num_sequences : 0;
  const Operand all =
      arena_.operand(step.operand_dtype, num_earlier + tokens.num_tokens, model_.config.hidden_size);
  Operand hidden = all;
  hidden.rows = tokens.num_tokens;
  hidden.data = static_cast<std::byte*>(all.data) +
                static_cast<size_t>(num_earlier * all.stride) * size_bytes(all.dtype);
  if (drafter_) drafter_->place_earlier(plan, all, backend_);
  model_time_.of([&] { decoder_.forward(step, hidden); });
  std::vector<ChunkRun> runs(plan.chunks.size());
  check_ran(plan, tokens, runs);

  std::vector<Row> handed_out;
  std::vector<Row> drawing;
  drawing.reserve(static_cast<size_t>(tokens.num_tokens));
  int32_t row = 0;
  for (size_t i = 0; i < plan.chunks.size(); ++i) {
    const PlannedChunk& chunk = plan.chunks[i];
    const auto count = static_cast<int>(chunk.tokens.size());
    for (int t = 0; t < count; ++t, ++row) {
      if (runs[i].fault != ChunkFault::kNone) continue;
      const int num_drafts = t - (count - 1 - chunk.num_drafts);
      const Row of{.row = row, .chunk = i, .position = chunk.first + t, .num_drafts = num_drafts};
      if (of.position >= outputs[i].logits_from && num_drafts <= 0) handed_out.push_back(of);
      if (chunk.draws && num_drafts >= 0) drawing.push_back(of);
    }
  }
  const auto for_logits = [&](std::span<const Row> all, const auto& use) {
    for_logits_rows(all, [&](std::span<const Row> rows) {
      const ArenaScope logits_scope(arena_);
      std::vector<int32_t> in_step;
      in_step.reserve(rows.size());
      for (const Row& of : rows) in_step.push_back(of.row);
      const auto logits = arena_.matrix<float>(static_cast<int64_t>(rows.size()), model_.config.vocab_size);
      const int32_t* const uploaded = arena_.upload(in_step);
      model_time_.of([&] { decoder_.lm_head(step, hidden, uploaded, logits); });
      use(logits, rows);
    });
  };
  for_logits(handed_out,
             [&](Matrix<float> logits, std::span<const Row> rows) { hand_out(logits, rows, outputs); });
  for_logits(drawing, [&](Matrix<float> logits, std::span<const Row> rows) {
    const std::vector<int32_t> drawn = draw(logits, rows, outputs);
    for (size_t i = 0; i < rows.size(); ++i) {
      const size_t chunk = rows[i].chunk;
      if (!verify(plan.chunks[chunk], rows[i].num_drafts, drawn[i], runs[chunk])) continue;
      if (outputs[chunk].on_drawn)
        outputs[chunk].on_drawn(drawn[i], on_host(logits.row(static_cast<int64_t>(i))));
    }
  });
  // What NaN comes from may be a file that was overwritten.
  if (std::ranges::any_of(runs, [](const ChunkRun& run) { return run.fault != ChunkFault::kNone; }))
    check_files();
  if (drafter_) drafter_->draft(step, all, plan, runs);
  return runs;
}

void StepRunner::check_files() {
  model_.memory.throw_if_changed();
  files_checked_ = Clock::now();  // not where it throws: a step that is tried again must not pass
}

void StepRunner::forget(RequestId request) {
  if (drafter_) drafter_->forget(request);
}

/// Takes a token that was drawn after `num_drafts` drafts, if those were right. True: the text goes on with
/// it.
bool StepRunner::verify(const PlannedChunk& chunk, int num_drafts, int32_t drawn, ChunkRun& run) {
  const auto before = static_cast<size_t>(num_drafts);
  if (run.fault != ChunkFault::kNone || run.drawn.size() < before) return false;
  const size_t first_draft = chunk.tokens.size() - static_cast<size_t>(chunk.num_drafts);
  if (before > 0 && chunk.tokens[first_draft + before - 1] != run.drawn.back()) return false;
  if (before == 0) run.drawn.reserve(static_cast<size_t>(chunk.num_drafts) + 1);
  run.drawn.push_back(drawn);
  if (drawn < 0) run.fault = ChunkFault::kBadLogits;
  return drawn >= 0;
}

void StepRunner::check_ran(const BatchPlan& plan, const TokenBatch& tokens, std::vector<ChunkRun>& runs) {
  model_.memory.throw_if_damaged();
  if (Clock::now() - files_checked_ >= kFileCheckInterval) check_files();
  std::vector<uint32_t> fault(plan.chunks.size());
  backend_.download(fault.data(), tokens.fault, fault.size() * sizeof(uint32_t));
  for (size_t i = 0; i < fault.size(); ++i) {
    if ((fault[i] & kFaultNan) != 0) runs[i].fault = ChunkFault::kNanScore;
  }
}

void StepRunner::hand_out(Matrix<const float> logits, std::span<const Row> rows,
                          std::span<const ChunkOutput> outputs) {
  const auto end_of_chunk = [&](size_t begin) {
    size_t end = begin;
    while (end < rows.size() && rows[end].chunk == rows[begin].chunk) ++end;
    return end;
  };
  size_t most = 0;
  for (size_t begin = 0, end = 0; begin < rows.size(); begin = end) {
    end = end_of_chunk(begin);
    most = std::max(most, end - begin);
  }
  const size_t wanted = most * static_cast<size_t>(logits.cols);
  if (host_logits_.capacity() < wanted) {  // as memory_need() counts it: growing, it would be there twice
    host_logits_ = {};
    host_logits_.reserve(wanted);
  }
  for (size_t begin = 0, end = 0; begin < rows.size(); begin = end) {
    end = end_of_chunk(begin);
    const auto count = static_cast<int64_t>(end - begin);
    host_logits_.resize(static_cast<size_t>(count * logits.cols));
    backend_.download(host_logits_.data(), logits.row(static_cast<int64_t>(begin)),
                      host_logits_.size() * sizeof(float));
    outputs[rows[begin].chunk].on_logits(rows[begin].position, {host_logits_.data(), count, logits.cols});
  }
}

/// A row of logits, until the next is asked for.
std::span<float> StepRunner::on_host(const float* logits) {
  host_logits_.resize(static_cast<size_t>(model_.config.vocab_size));
  backend_.download(host_logits_.data(), logits, host_logits_.size() * sizeof(float));
  return host_logits_;
}

/// Of each row of the model's logits. A row whose own logits are wanted, too, is adjusted in a copy.
std::vector<int32_t> StepRunner::draw(Matrix<float> logits, std::span<const Row> rows,
                                      std::span<const ChunkOutput> outputs) {
  if (options_.observer != nullptr) options_.observer->drawn_from(logits);
  std::vector<std::pair<size_t, int32_t>> from_copies;
  for (size_t i = 0; i < rows.size(); ++i) {
    const ChunkOutput& output = outputs[rows[i].chunk];
    if (output.adjust == nullptr) continue;
    float* const in_step = logits.row(static_cast<int64_t>(i));
    const std::span<float> adjusted = on_host(in_step);
    output.adjust(rows[i].num_drafts, adjusted);
    const bool is_copy = output.on_drawn != nullptr;
    const ArenaScope scope(arena_);
    const Matrix<float> to{is_copy ? arena_.allocate_array<float>(logits.cols) : in_step, 1, logits.cols};
    backend_.upload(to.data, adjusted.data(), adjusted.size_bytes());
    if (is_copy) from_copies.emplace_back(i, draw_from(to, rows.subspan(i, 1), outputs).front());
  }
  std::vector<int32_t> drawn = draw_from(logits, rows, outputs);
  for (const auto& [i, token] : from_copies) drawn[i] = token;
  return drawn;
}

std::vector<int32_t> StepRunner::draw_from(Matrix<float> logits, std::span<const Row> rows,
                                           std::span<const ChunkOutput> outputs) {
  std::vector<SamplingParams> params;
  std::vector<int32_t> position;
  params.reserve(rows.size());
  position.reserve(rows.size());
  for (const Row& row : rows) {
    params.push_back(outputs[row.chunk].sampling);
    position.push_back(static_cast<int32_t>(row.position + 1));
  }
  auto* token = arena_.allocate_array<int32_t>(static_cast<int64_t>(rows.size()));
  fulgur::run(context_, Sample{logits, arena_.upload(params), arena_.upload(position), token});
  std::vector<int32_t> drawn(rows.size());
  backend_.download(drawn.data(), token, drawn.size() * sizeof(int32_t));
  return drawn;
}

}  // namespace fulgur
