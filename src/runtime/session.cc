#include "runtime/session.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <utility>

#include "base/error.h"
#include "ops/linear.h"
#include "runtime/choose_backend.h"
#include "runtime/chunk_run.h"

namespace fulgur {
namespace {

/// Rows of logits computed at once: enough for matrix-matrix work, little memory with a vocabulary of
/// 150,000.
constexpr int64_t kLogitsRows = 128;

int64_t pages_for(int64_t tokens) { return (tokens + kPageTokens - 1) / kPageTokens; }

}  // namespace

/// A token whose logits are wanted.
struct Session::Row {
  int32_t row = 0;  // in the step
  int work = 0;
  int64_t position = 0;
  bool sent = false;   // to the sink
  bool drawn = false;  // the token after it is drawn
};

struct Session::Batch {
  std::vector<int32_t> token;
  std::vector<int32_t> position;
  std::vector<int32_t> sequence;  // row of `pages`
  std::vector<int> work;
  std::vector<Sequence*> sequences;
  std::vector<int> handles;
  std::vector<Row> wanted;
};

struct Session::RunResult {
  std::span<const Work> works;
  const LogitsSink& sink;
  const LogitsSink& mtp_sink;
  std::vector<int32_t> drawn;
};

Session::Session(const LoadedModel& model, const SessionOptions& options)
    : model_(model),
      options_(options),
      backend_(choose_backend()),
      team_(options.threads),
      arena_(backend_),
      context_{.backend = &backend_,
               .team = &team_,
               .arena = &arena_,
               .profile = options.profile ? &profile_ : nullptr},
      pool_(model.config, options.mtp, operand_dtype(options.precision),
            static_cast<int>(pages_for(options.cache_tokens)), backend_),
      rope_(model.config, pages_for(options.cache_tokens) * kPageTokens, backend_),
      decoder_(model.config, model.weights) {
  if (options.mtp) mtp_.emplace(model.config, model.weights);
}

int Session::open() {
  sequences_.emplace(next_handle_, Sequence{});
  return next_handle_++;
}

void Session::close(int sequence) {
  const auto node = sequences_.extract(sequence);
  for (const int32_t page : node.mapped().pages) pool_.give_back(page);
}

int64_t Session::length(int sequence) const { return sequences_.at(sequence).length; }

void Session::check_room(std::span<const Work> works) const {
  int64_t new_pages = 0;
  for (const Work& work : works) {
    const Sequence& sequence = sequences_.at(work.sequence);
    const int64_t length = sequence.length + static_cast<int64_t>(work.tokens.size());
    if (length > model_.config.max_position_embeddings) {
      throw Error(Problem{
          .kind = ErrorKind::kBadRequest,
          .message =
              fmt::format("The sequence would be {} tokens long, more than the model's positions.", length),
          .expected =
              fmt::format("at most max_position_embeddings = {}", model_.config.max_position_embeddings),
          .found = fmt::format("{} tokens", length),
          .todo = "shorten the prompt or ask for fewer new tokens"});
    }
    new_pages += pages_for(length) - static_cast<int64_t>(sequence.pages.size());
    for (const int32_t token : work.tokens) {
      if (token < 0 || token >= model_.config.vocab_size) {
        throw Error(Problem{.kind = ErrorKind::kBadRequest,
                            .message = fmt::format("Token id {} is not in the model's vocabulary.", token),
                            .expected = fmt::format("0 to {}", model_.config.vocab_size - 1),
                            .found = fmt::format("{}", token),
                            .todo = "use ids of this model's tokenizer (fulgur tokenize)"});
      }
    }
  }
  if (new_pages > pool_.num_free()) {
    throw Error(
        Problem{.kind = ErrorKind::kBadRequest,
                .message = "The caches are too small for these sequences.",
                .expected = fmt::format("at most {} more tokens", int64_t{pool_.num_free()} * kPageTokens),
                .found = fmt::format("{} pages of {} tokens are needed", new_pages, kPageTokens),
                .todo = "shorten the prompt or ask for fewer new tokens"});
  }
}

std::vector<int32_t> Session::run(std::span<const Work> works, const LogitsSink& sink,
                                  const LogitsSink& mtp_sink) {
  check_room(works);
  RunResult result{works, sink, mtp_sink, std::vector<int32_t>(works.size(), -1)};
  Batch batch;
  for (size_t w = 0; w < works.size(); ++w) {
    const Work& work = works[w];
    Sequence& sequence = sequences_.at(work.sequence);
    for (size_t i = 0; i < work.tokens.size(); ++i) {
      if (batch.handles.empty() || batch.handles.back() != work.sequence) {
        batch.handles.push_back(work.sequence);
        batch.sequences.push_back(&sequence);
      }
      const int64_t position = sequence.length++;
      if (position % kPageTokens == 0) sequence.pages.push_back(pool_.take());
      const bool last = i + 1 == work.tokens.size();
      const Row row{.row = static_cast<int32_t>(batch.token.size()),
                    .work = static_cast<int>(w),
                    .position = position,
                    .sent = work.logits == Wanted::kAll || (last && work.logits == Wanted::kLast),
                    .drawn = last && work.sampling != nullptr};
      if (row.sent || row.drawn) batch.wanted.push_back(row);
      batch.token.push_back(work.tokens[i]);
      batch.position.push_back(static_cast<int32_t>(position));
      batch.sequence.push_back(static_cast<int32_t>(batch.handles.size()) - 1);
      batch.work.push_back(static_cast<int>(w));
      if (static_cast<int64_t>(batch.token.size()) == options_.step_tokens) {
        run_step(batch, result);
        batch = {};
      }
    }
  }
  if (!batch.token.empty()) run_step(batch, result);
  return std::move(result.drawn);
}

std::vector<int32_t> Session::pages_of(const Batch& batch) const {
  size_t most = 0;
  for (const Sequence* sequence : batch.sequences) most = std::max(most, sequence->pages.size());
  std::vector<int32_t> pages(batch.sequences.size() * most, -1);
  for (size_t i = 0; i < batch.sequences.size(); ++i) {
    std::ranges::copy(batch.sequences[i]->pages, pages.begin() + static_cast<std::ptrdiff_t>(i * most));
  }
  return pages;
}

void Session::run_step(const Batch& batch, RunResult& result) {
  const ArenaScope scope(arena_);
  const std::vector<int32_t> pages = pages_of(batch);
  const std::vector<uint32_t> no_fault(batch.sequences.size(), 0);
  const auto num_tokens = static_cast<int64_t>(batch.token.size());
  const auto num_sequences = static_cast<int64_t>(batch.sequences.size());
  const TokenBatch tokens{
      .num_tokens = static_cast<int>(num_tokens),
      .num_sequences = static_cast<int>(num_sequences),
      .max_context = *std::ranges::max_element(batch.position) + 1,
      .token = arena_.upload(batch.token),
      .position = arena_.upload(batch.position),
      .sequence = arena_.upload(batch.sequence),
      .pages = {arena_.upload(pages), num_sequences, static_cast<int64_t>(pages.size()) / num_sequences},
      .fault = arena_.upload(no_fault)};
  Step step{.context = context_,
            .batch = tokens,
            .rope = rope_.view(),
            .caches = pool_.layers(),
            .operand_dtype = operand_dtype(options_.precision),
            .projection = options_.projection,
            .selection = options_.selection,
            .observer = options_.observer};
  // Where there is an MTP layer, behind a row for each sequence: F of the token before the step's first.
  const Operand hidden =
      arena_.operand(step.operand_dtype, num_tokens + (mtp_ ? num_sequences : 0), model_.config.hidden_size);
  Operand own = hidden;
  own.rows = num_tokens;
  own.data = static_cast<std::byte*>(hidden.data) +
             static_cast<size_t>((hidden.rows - num_tokens) * hidden.cols) * size_bytes(hidden.dtype);
  decoder_.forward(step, own);
  check_ran(tokens);
  for_logits(
      batch.wanted,
      [&](const int32_t* rows, Matrix<float> logits) { decoder_.lm_head(step, own, rows, logits); },
      [&](Matrix<const float> logits, std::span<const Row> wanted) {
        if (result.sink) send(logits, wanted, result.sink);
        draw(logits, wanted, result);
      });
  if (mtp_) run_mtp(step, hidden, batch, result);
}

void Session::run_mtp(const Step& main, const Operand& hidden, const Batch& batch, const RunResult& result) {
  const size_t row_bytes = static_cast<size_t>(hidden.cols) * size_bytes(hidden.dtype);
  const auto row_of = [&](size_t row) { return static_cast<std::byte*>(hidden.data) + row * row_bytes; };
  const size_t num_sequences = batch.sequences.size();
  for (size_t i = 0; i < num_sequences; ++i) {
    const std::vector<std::byte>& before = batch.sequences[i]->last_hidden;
    if (!before.empty()) backend_.upload(row_of(i), before.data(), row_bytes);
  }

  std::vector<int32_t> token;
  std::vector<int32_t> position;
  std::vector<int32_t> sequence;
  std::vector<int32_t> previous;  // the row of `hidden` that goes with each token
  std::vector<Row> wanted;
  for (size_t i = 0; i < batch.token.size(); ++i) {
    const auto own = static_cast<size_t>(batch.sequence[i]);
    if (i + 1 == batch.token.size() || batch.sequence[i + 1] != batch.sequence[i]) {
      batch.sequences[own]->last_hidden.resize(row_bytes);
      backend_.download(batch.sequences[own]->last_hidden.data(), row_of(num_sequences + i), row_bytes);
    }
    if (batch.position[i] < Mtp::kFirstPosition) continue;
    if (result.mtp_sink) {
      wanted.push_back({.row = static_cast<int32_t>(token.size()),
                        .work = batch.work[i],
                        .position = batch.position[i] - 1,
                        .sent = true});
    }
    token.push_back(batch.token[i]);
    position.push_back(batch.position[i]);
    sequence.push_back(batch.sequence[i]);
    const bool first = i == 0 || batch.sequence[i - 1] != batch.sequence[i];
    previous.push_back(static_cast<int32_t>(first ? own : num_sequences + i - 1));
  }
  if (token.empty()) return;

  TokenBatch tokens = main.batch;
  tokens.num_tokens = static_cast<int>(token.size());
  tokens.first_position = Mtp::kFirstPosition;
  tokens.token = arena_.upload(token);
  tokens.position = arena_.upload(position);
  tokens.sequence = arena_.upload(sequence);
  Step step{.context = context_,
            .batch = tokens,
            .rope = rope_.view(),
            .caches = main.caches,
            .operand_dtype = main.operand_dtype,
            .projection = main.projection,
            .observer = main.observer};
  const Operand out = mtp_->forward(step, hidden, arena_.upload(previous));
  check_ran(tokens);
  for_logits(
      wanted, [&](const int32_t* rows, Matrix<float> logits) { mtp_->lm_head(step, out, rows, logits); },
      [&](Matrix<const float> logits, std::span<const Row> rows) { send(logits, rows, result.mtp_sink); });
}

void Session::check_ran(const TokenBatch& tokens) const {
  model_.memory.throw_if_damaged();
  std::vector<uint32_t> fault(static_cast<size_t>(tokens.num_sequences));
  backend_.download(fault.data(), tokens.fault, fault.size() * sizeof(uint32_t));
  for (const uint32_t bits : fault) {
    if ((bits & kFaultNan) != 0) {
      throw Error(problem_of(ChunkFault::kNanScore));
    }
  }
}

template <typename Head, typename F>
void Session::for_logits(std::span<const Row> all, Head head, F f) {
  for (size_t begin = 0; begin < all.size(); begin += kLogitsRows) {
    const ArenaScope scope(arena_);
    const auto wanted = all.subspan(begin, std::min(size_t{kLogitsRows}, all.size() - begin));
    std::vector<int32_t> rows;
    for (const Row& row : wanted) rows.push_back(row.row);
    const auto logits = arena_.matrix<float>(static_cast<int64_t>(rows.size()), model_.config.vocab_size);
    head(arena_.upload(rows), logits);
    f(logits, wanted);
  }
}

void Session::send(Matrix<const float> logits, std::span<const Row> wanted, const LogitsSink& sink) {
  std::vector<float> host;
  for (size_t begin = 0, end = 0; begin < wanted.size(); begin = end) {
    while (end < wanted.size() && wanted[end].work == wanted[begin].work && wanted[end].sent) ++end;
    if (begin == end) {
      ++end;
      continue;
    }
    const auto count = static_cast<int64_t>(end - begin);
    host.resize(static_cast<size_t>(count * logits.cols));
    backend_.download(host.data(), logits.row(static_cast<int64_t>(begin)), host.size() * sizeof(float));
    sink(wanted[begin].work, wanted[begin].position, {host.data(), count, logits.cols});
  }
}

void Session::draw(Matrix<const float> logits, std::span<const Row> wanted, RunResult& result) {
  for (size_t i = 0; i < wanted.size(); ++i) {
    if (!wanted[i].drawn) continue;
    const auto work = static_cast<size_t>(wanted[i].work);
    const auto position = static_cast<int32_t>(wanted[i].position + 1);
    auto* token = arena_.allocate_array<int32_t>(1);
    fulgur::run(context_,
                Sample{{logits.row(static_cast<int64_t>(i)), 1, logits.cols},
                       arena_.upload(std::span<const SamplingParams>(result.works[work].sampling, 1)),
                       arena_.upload(std::span<const int32_t>(&position, 1)),
                       token});
    backend_.download(&result.drawn[work], token, sizeof(int32_t));
    if (result.drawn[work] < 0) {
      throw Error(problem_of(ChunkFault::kBadLogits));
    }
  }
}

}  // namespace fulgur
