#include "runtime/step_scratch.h"

#include <algorithm>
#include <vector>

#include "model/decoder.h"
#include "model/mtp.h"
#include "ops/sample.h"
#include "runtime/cache_pool.h"
#include "runtime/choose_backend.h"
#include "runtime/logits_rows.h"

namespace fulgur {
namespace {

/// A step as StepRunner and Drafter run it.
struct StepShape {
  /// Sequences with `each` tokens at the end of a context.
  struct Part {
    int64_t sequences;
    int64_t each;
    int64_t context;
  };
  std::vector<Part> parts;
  int64_t logits_rows = 1;
  int64_t most_sequences = 1;     // in a step of so many tokens, which tables have a row for
  bool all_pairs_logits = false;  // the MTP layer's

  /// Prompts of this length, the last one cut.
  void add_prompts(int64_t tokens, int64_t prompt) {
    parts.push_back({tokens / prompt, prompt, prompt});
    if (tokens % prompt != 0) parts.push_back({1, tokens % prompt, prompt});
  }
  /// A token each, and drafts, up to `most` tokens of each, while `tokens` last.
  void add_decoding(int64_t sequences, int64_t most, int64_t context, int64_t tokens) {
    const int64_t drafts = std::min(sequences * (most - 1), tokens - sequences);
    const int64_t whole = most > 1 ? drafts / (most - 1) : 0;
    const int64_t cut = most > 1 && drafts % (most - 1) != 0 ? 1 : 0;
    parts.push_back({whole, most, context});
    if (cut != 0) parts.push_back({1, 1 + drafts % (most - 1), context});
    parts.push_back({sequences - whole - cut, 1, context});
  }
  [[nodiscard]] int64_t sequences() const {
    return sum([](const Part& part) { return part.sequences; });
  }
  [[nodiscard]] int64_t tokens() const {
    return sum([](const Part& part) { return part.sequences * part.each; });
  }
  [[nodiscard]] int64_t context() const {
    int64_t longest = 0;
    for (const Part& part : parts) longest = std::max(longest, part.context);
    return longest;
  }

 private:
  template <typename F>
  [[nodiscard]] int64_t sum(const F& of) const {
    int64_t total = 0;
    for (const Part& part : parts) total += of(part);
    return total;
  }
};

/// Asks for what is to be shown, and looks at nothing.
class BlindObserver : public StepObserver {
 public:
  explicit BlindObserver(const RunSize& size) : size_(size) {}
  [[nodiscard]] bool wants_scores() const override { return size_.shows_scores; }
  [[nodiscard]] bool wants_router() const override { return size_.shows_router; }

 private:
  const RunSize& size_;
};

/// As wide as what the run has, and selects nothing.
class BlindSelection : public SelectionSource {
 public:
  BlindSelection(const SelectionSource* like, int64_t width) : like_(like), width_(width) {}
  [[nodiscard]] bool everything() const override { return like_ != nullptr && like_->everything(); }
  [[nodiscard]] int64_t width(int64_t index_topk) const override {
    return std::max(width_, like_ != nullptr ? like_->width(index_topk) : index_topk);
  }
  void select(int, const TokenBatch&, Context&, Matrix<int32_t>) override {}

 private:
  const SelectionSource* like_;
  int64_t width_;
};

class Steps {
 public:
  Steps(const Config& config, const ModelWeights& weights, const RunnerOptions& options,
        const Backend& backend, StepObserver& observer, SelectionSource& selection)
      : config_(config),
        weights_(weights),
        options_(options),
        observer_(observer),
        selection_(selection),
        team_(options.threads, ThreadTeam::OnlyCounts{}),
        arena_(backend, /*only_counts=*/true),
        context_{.backend = &backend,
                 .team = &team_,
                 .arena = &arena_,
                 .index_scratch_bytes = options.index_scratch_bytes},
        caches_(cache_shapes(config, options.runs_mtp(),
                             cache_dtypes(options.cache_forms, config, options.precision, backend), 1)) {}

  void run(const StepShape& shape) {
    const ArenaScope scope(arena_);
    const TokenBatch batch = upload(shape);
    const RopeTable rope{{nullptr, shape.context(), config_.qk_rope_head_dim / 2},
                         {nullptr, shape.context(), config_.qk_rope_head_dim / 2}};
    Step step{.context = context_,
              .batch = batch,
              .rope = rope,
              .caches = caches_,
              .operand_dtype = operand_dtype(options_.precision),
              .projection = options_.projection,
              .selection = &selection_,
              .observer = &observer_};
    const bool mtp = options_.runs_mtp();
    const Operand all = arena_.operand(step.operand_dtype, (mtp ? shape.most_sequences : 0) + shape.tokens(),
                                       config_.hidden_size);
    Operand hidden = all;
    hidden.rows = shape.tokens();
    const Decoder decoder(config_, weights_);
    decoder.forward(step, hidden);
    {
      const ArenaScope logits_scope(arena_);
      const int64_t rows = std::clamp<int64_t>(shape.logits_rows, 1, static_cast<int64_t>(kLogitsRows));
      const auto logits = arena_.matrix<float>(rows, config_.vocab_size);
      decoder.lm_head(step, hidden, ids(rows), logits);
      {  // of a request that sees its own logits and has them adjusted
        const ArenaScope scope(arena_);
        sample(arena_.matrix<float>(1, config_.vocab_size));
      }
      sample(logits);
    }
    if (mtp) run_mtp(step, all, shape);
  }

  [[nodiscard]] uint64_t peak_bytes() const { return arena_.peak_bytes(); }

 private:
  TokenBatch upload(const StepShape& shape) {
    std::vector<int32_t> position;
    std::vector<int32_t> sequence;
    int32_t at = 0;
    for (const auto& [sequences, each, context] : shape.parts) {
      for (int64_t s = 0; s < sequences; ++s, ++at) {
        for (int64_t t = context - each; t < context; ++t) {
          position.push_back(static_cast<int32_t>(t));
          sequence.push_back(at);
        }
      }
    }
    const int64_t pages = pages_for(shape.context());
    return {.num_tokens = static_cast<int>(shape.tokens()),
            .num_sequences = static_cast<int>(shape.sequences()),
            .max_context = static_cast<int>(shape.context()),
            .token = arena_.upload(position),
            .position = arena_.upload(position),
            .sequence = arena_.upload(sequence),
            .pages = {ids(shape.most_sequences * pages), shape.most_sequences, pages},
            .fault = arena_.allocate_array<uint32_t>(shape.most_sequences)};
  }

  /// Those who look on see the logits of all pairs. Else all but a sequence's last only fill the caches, and
  /// guesses are made from that.
  void run_mtp(const Step& main, Operand from, const StepShape& shape) {
    const Mtp mtp(config_, weights_);
    StepShape pairs = shape;
    const auto with_pairs = [&](const auto& use) {
      TokenBatch batch = upload(pairs);
      batch.pages = main.batch.pages;
      batch.first_position = Mtp::kFirstPosition;
      Step step{.context = context_,
                .batch = batch,
                .rope = main.rope,
                .caches = main.caches,
                .operand_dtype = main.operand_dtype,
                .projection = main.projection};
      use(step);
    };
    if (shape.all_pairs_logits) {
      with_pairs([&](Step& step) {
        const Operand out = mtp.forward(step, from, ids(pairs.tokens()));
        const int64_t rows = std::min(pairs.tokens(), static_cast<int64_t>(kLogitsRows));
        mtp.lm_head(step, out, ids(rows), arena_.matrix<float>(rows, config_.vocab_size));
      });
      return;
    }
    for (StepShape::Part& part : pairs.parts) --part.each;
    if (pairs.tokens() > 0) {
      with_pairs([&](Step& step) { mtp.fill_caches(step, from, ids(pairs.tokens())); });
    }
    for (StepShape::Part& part : pairs.parts) part.each = 1;
    for (int i = 0; i < std::max(1, options_.num_drafts); ++i) {
      with_pairs([&](Step& step) {
        const Operand out = mtp.forward(step, from, ids(pairs.tokens()));
        const auto logits = arena_.matrix<float>(pairs.sequences(), config_.vocab_size);
        mtp.lm_head(step, out, ids(pairs.sequences()), logits);
        sample(logits);
        from = out;
      });
    }
  }

  void sample(Matrix<float> logits) {
    const auto* params = arena_.allocate_array<SamplingParams>(logits.rows);
    fulgur::run(context_, Sample{logits, params, ids(logits.rows), ids(logits.rows)});
  }

  int32_t* ids(int64_t count) { return arena_.allocate_array<int32_t>(count); }

  const Config& config_;
  const ModelWeights& weights_;
  const RunnerOptions& options_;
  StepObserver& observer_;
  SelectionSource& selection_;
  ThreadTeam team_;
  Arena arena_;
  Context context_;
  std::vector<LayerCache> caches_;
};

StepShape one_chunk(int64_t tokens, int64_t context) {
  StepShape shape;
  shape.parts.push_back({1, tokens, context});
  return shape;
}

/// As many sequences that decode as there can be in a full step beside those whose prompts fill it.
StepShape step_of_both(const RunSize& size, int64_t each) {
  const int64_t prompt = size.longest_prompt();
  const int64_t tokens = std::min(size.most_step_tokens(), size.sequences * std::max(prompt, each));
  int64_t decoding = std::min(size.sequences - 1, (tokens - 1) / each);
  if (prompt > each) {
    decoding = std::clamp<int64_t>((size.sequences * prompt - tokens) / (prompt - each), 0, decoding);
  }
  StepShape shape;
  shape.parts.push_back({decoding, each, size.longest()});
  shape.add_prompts(std::min(tokens - decoding * each, (size.sequences - decoding) * prompt), prompt);
  return shape;
}

}  // namespace

int64_t RunSize::longest() const { return std::max<int64_t>(1, context > 0 ? context : cache_tokens); }

int64_t RunSize::num_pages() const { return pages_for(cache_tokens); }

int64_t RunSize::longest_prompt() const { return prompt > 0 ? prompt : longest(); }

int64_t RunSize::most_step_tokens() const {
  return std::clamp<int64_t>(step_tokens, 1, std::max<int64_t>(1, num_pages() * kPageTokens));
}

int64_t RunSize::prompt_ids() const {
  if (prompts == 0) return std::min(sequences * longest_prompt(), cache_tokens);
  return prompts * std::max(requests, sequences) / sequences;
}

int64_t RunSize::host_logits_rows() const {
  if (!hands_out_logits) return 1;
  return std::min({prompt_step_tokens(), longest_prompt(), static_cast<int64_t>(kLogitsRows)});
}

int64_t RunSize::prompt_step_tokens() const {
  return std::min(most_step_tokens(), prompts > 0 ? prompts : sequences * longest_prompt());
}

uint64_t step_scratch_bytes(const Config& config, const ModelWeights& weights, const RunnerOptions& options,
                            const RunSize& size) {
  const Backend& backend = options.backend != nullptr ? *options.backend : choose_backend();
  BlindObserver observer(size);
  BlindSelection selection(options.selection, size.selection_width);
  Steps steps(config, weights, options, backend, observer, selection);
  // Of a sequence that decodes: a token, with its drafts.
  const int64_t each = std::min<int64_t>(1 + options.num_drafts, size.longest());
  const auto run = [&](StepShape shape) {
    const int64_t tokens = shape.tokens();
    shape.logits_rows = size.hands_out_logits ? tokens : std::min(tokens, shape.sequences() * each);
    shape.most_sequences = std::min(size.sequences, tokens);
    shape.all_pairs_logits = size.shows_mtp_logits;
    steps.run(shape);
  };
  const int64_t tokens = size.prompt_step_tokens();
  const int64_t prompt = size.longest_prompt();
  if (size.sequences == 1) {  // its chunks are known: the last whole one, and the rest
    run(one_chunk(tokens, prompt / tokens * tokens));
    if (prompt % tokens != 0) run(one_chunk(prompt % tokens, prompt));
  } else {
    StepShape prompts;
    prompts.add_prompts(tokens, prompt);
    run(std::move(prompts));
    run(step_of_both(size, each));
  }
  StepShape decoding;
  const int64_t most = size.most_step_tokens();
  decoding.add_decoding(std::min(size.sequences, most), each, size.longest(), most);
  run(std::move(decoding));
  return steps.peak_bytes();
}

}  // namespace fulgur
