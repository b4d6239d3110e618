#include "runtime/session.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "model/rope.h"
#include "ops/linear.h"
#include "runtime/choose_backend.h"

namespace fulgur {
namespace {

/// Rows of logits computed at once: enough for matrix-matrix work, little memory with a vocabulary of
/// 150,000.
constexpr int64_t kLogitsRows = 128;

constexpr std::string_view kDamagedValues =
    "fulgur inspect --verify names the tensors whose values are damaged; fetch their files again";

int64_t pages_for(int64_t tokens) { return (tokens + kPageTokens - 1) / kPageTokens; }

/// Positions that one sequence can reach: the table of rotary angles ends there.
int64_t num_positions(const Config& config, const SessionOptions& options) {
  return std::min(config.max_position_embeddings, pages_for(options.cache_tokens) * kPageTokens);
}

}  // namespace

/// One token of a step that wants logits.
struct Session::Row {
  int32_t row = 0;  // in the step
  int work = 0;
  int64_t position = 0;
  bool last = false;  // of its work
};

struct Session::Batch {
  std::vector<int32_t> token;
  std::vector<int32_t> position;
  std::vector<int32_t> sequence;  // row of `pages`
  std::vector<const Sequence*> sequences;
  std::vector<int> handles;
  std::vector<Row> wanted;
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
      pool_(model.config, options.precision == Precision::kFull ? DType::kF32 : DType::kBf16,
            static_cast<int>(pages_for(options.cache_tokens)), backend_),
      decoder_(model.config, model.weights) {
  const RopeTables tables(model.config, num_positions(model.config, options));
  const RopeTable host = tables.view();
  const auto place = [&](BackendBuffer& buffer, Matrix<const float> values) {
    const size_t bytes = static_cast<size_t>(values.rows * values.cols) * sizeof(float);
    buffer = BackendBuffer(backend_, bytes);
    backend_.upload(buffer.data(), values.data, bytes);
    return Matrix<const float>(static_cast<const float*>(buffer.data()), values.rows, values.cols);
  };
  rope_ = {.cos = place(cos_, host.cos), .sin = place(sin_, host.sin)};
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

std::vector<int32_t> Session::run(std::span<const Work> works, const LogitsSink& sink) {
  check_room(works);
  std::vector<int32_t> drawn(works.size(), -1);
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
      const bool wants =
          work.logits == Wanted::kAll || (last && (work.logits == Wanted::kLast || work.sampling != nullptr));
      if (wants)
        batch.wanted.push_back(
            {static_cast<int32_t>(batch.token.size()), static_cast<int>(w), position, last});
      batch.token.push_back(work.tokens[i]);
      batch.position.push_back(static_cast<int32_t>(position));
      batch.sequence.push_back(static_cast<int32_t>(batch.handles.size()) - 1);
      if (static_cast<int64_t>(batch.token.size()) == options_.step_tokens) {
        run_step(batch, works, sink, drawn);
        batch = {};
      }
    }
  }
  if (!batch.token.empty()) run_step(batch, works, sink, drawn);
  return drawn;
}

template <typename T>
T* Session::upload(std::span<const T> values) {
  T* to = arena_.allocate_array<T>(static_cast<int64_t>(values.size()));
  backend_.upload(to, values.data(), values.size_bytes());
  return to;
}

void Session::run_step(const Batch& batch, std::span<const Work> works, const LogitsSink& sink,
                       std::vector<int32_t>& drawn) {
  const ArenaScope scope(arena_);
  size_t max_pages = 0;
  for (const Sequence* sequence : batch.sequences) max_pages = std::max(max_pages, sequence->pages.size());
  std::vector<int32_t> pages(batch.sequences.size() * max_pages, -1);
  for (size_t i = 0; i < batch.sequences.size(); ++i) {
    std::ranges::copy(batch.sequences[i]->pages, pages.begin() + static_cast<std::ptrdiff_t>(i * max_pages));
  }
  std::vector<uint32_t> fault(batch.sequences.size(), 0);

  const TokenBatch tokens{
      .num_tokens = static_cast<int>(batch.token.size()),
      .num_sequences = static_cast<int>(batch.sequences.size()),
      .max_context = *std::ranges::max_element(batch.position) + 1,
      .token = upload(std::span<const int32_t>(batch.token)),
      .position = upload(std::span<const int32_t>(batch.position)),
      .sequence = upload(std::span<const int32_t>(batch.sequence)),
      .pages = {upload(std::span<const int32_t>(pages)), static_cast<int64_t>(batch.sequences.size()),
                static_cast<int64_t>(max_pages)},
      .fault = upload(std::span<const uint32_t>(fault))};
  Step step{.context = context_,
            .batch = tokens,
            .rope = rope_,
            .caches = pool_.layers(),
            .operand_dtype = options_.precision == Precision::kFull ? DType::kF32 : DType::kBf16,
            .projection = options_.projection,
            .selection = options_.selection,
            .observer = options_.observer};
  const Operand hidden = decoder_.forward(step);
  for (const auto& file : model_.memory.files) {
    if (file->damaged()) file->throw_if_damaged();
  }
  backend_.download(fault.data(), tokens.fault, fault.size() * sizeof(uint32_t));
  for (const uint32_t bits : fault) {
    if ((bits & kFaultNan) != 0) {
      throw Error(Problem{.kind = ErrorKind::kBadValue,
                          .message = "A score of the model became NaN while it ran.",
                          .expected = "finite numbers",
                          .found = "NaN",
                          .todo = std::string(kDamagedValues)});
    }
  }
  deliver_logits(step, hidden, batch, works, sink, drawn);
}

void Session::deliver_logits(Step& step, const Operand& hidden, const Batch& batch,
                             std::span<const Work> works, const LogitsSink& sink,
                             std::vector<int32_t>& drawn) {
  const std::span<const Row> all_wanted = batch.wanted;
  for (size_t begin = 0; begin < all_wanted.size(); begin += kLogitsRows) {
    const ArenaScope scope(arena_);
    const auto wanted = all_wanted.subspan(begin, std::min(size_t{kLogitsRows}, all_wanted.size() - begin));
    std::vector<int32_t> rows;
    for (const Row& row : wanted) rows.push_back(row.row);
    const auto logits = arena_.matrix<float>(static_cast<int64_t>(rows.size()), model_.config.vocab_size);
    decoder_.lm_head(step, hidden, upload(std::span<const int32_t>(rows)), logits);
    if (sink) send(logits, wanted, works, sink);
    draw(logits, wanted, works, drawn);
  }
}

void Session::send(Matrix<const float> logits, std::span<const Row> wanted, std::span<const Work> works,
                   const LogitsSink& sink) {
  std::vector<float> host;
  for (size_t begin = 0, end = 0; begin < wanted.size(); begin = end) {
    while (end < wanted.size() && wanted[end].work == wanted[begin].work) ++end;
    const int work = wanted[begin].work;
    if (works[static_cast<size_t>(work)].logits == Wanted::kNone) continue;
    const auto count = static_cast<int64_t>(end - begin);
    host.resize(static_cast<size_t>(count * logits.cols));
    backend_.download(host.data(), logits.row(static_cast<int64_t>(begin)), host.size() * sizeof(float));
    sink(work, wanted[begin].position, {host.data(), count, logits.cols});
  }
}

void Session::draw(Matrix<const float> logits, std::span<const Row> wanted, std::span<const Work> works,
                   std::vector<int32_t>& drawn) {
  for (size_t i = 0; i < wanted.size(); ++i) {
    const auto work = static_cast<size_t>(wanted[i].work);
    if (!wanted[i].last || works[work].sampling == nullptr) continue;
    const auto position = static_cast<int32_t>(wanted[i].position + 1);
    auto* token = arena_.allocate_array<int32_t>(1);
    fulgur::run(context_, Sample{{logits.row(static_cast<int64_t>(i)), 1, logits.cols},
                                 upload(std::span<const SamplingParams>(works[work].sampling, 1)),
                                 upload(std::span<const int32_t>(&position, 1)),
                                 token});
    backend_.download(&drawn[work], token, sizeof(int32_t));
    if (drawn[work] < 0) {
      throw Error(Problem{.kind = ErrorKind::kBadValue,
                          .message = "The model's logits are NaN or infinite, so no token can be drawn.",
                          .expected = "finite logits",
                          .found = "NaN or infinity",
                          .todo = std::string(kDamagedValues)});
    }
  }
}

}  // namespace fulgur
