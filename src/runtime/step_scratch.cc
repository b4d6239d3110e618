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

/// `sequences` of them with `each` tokens at the end of a context, as StepRunner and Drafter run them.
struct StepShape {
  int64_t sequences;
  int64_t each;
  int64_t context;
  int64_t logits_rows;

  [[nodiscard]] int64_t tokens() const { return sequences * each; }
};

class Steps {
 public:
  Steps(const Config& config, const ModelWeights& weights, const RunnerOptions& options,
        const Backend& backend)
      : config_(config),
        weights_(weights),
        options_(options),
        team_(options.threads),
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
    const RopeTable rope{{nullptr, shape.context, config_.qk_rope_head_dim / 2},
                         {nullptr, shape.context, config_.qk_rope_head_dim / 2}};
    Step step{.context = context_,
              .batch = batch,
              .rope = rope,
              .caches = caches_,
              .operand_dtype = operand_dtype(options_.precision),
              .projection = options_.projection};
    const bool mtp = options_.runs_mtp();
    const Operand all =
        arena_.operand(step.operand_dtype, (mtp ? shape.sequences : 0) + shape.tokens(), config_.hidden_size);
    Operand hidden = all;
    hidden.rows = shape.tokens();
    const Decoder decoder(config_, weights_);
    decoder.forward(step, hidden);
    {
      const ArenaScope logits_scope(arena_);
      const int64_t rows = std::clamp<int64_t>(shape.logits_rows, 1, static_cast<int64_t>(kLogitsRows));
      const auto logits = arena_.matrix<float>(rows, config_.vocab_size);
      decoder.lm_head(step, hidden, ids(rows), logits);
      sample(logits);
    }
    if (mtp) run_mtp(step, all, shape);
  }

  [[nodiscard]] uint64_t peak_bytes() const { return arena_.peak_bytes(); }

 private:
  TokenBatch upload(const StepShape& shape) {
    std::vector<int32_t> position;
    std::vector<int32_t> sequence;
    for (int64_t s = 0; s < shape.sequences; ++s) {
      for (int64_t t = shape.context - shape.each; t < shape.context; ++t) {
        position.push_back(static_cast<int32_t>(t));
        sequence.push_back(static_cast<int32_t>(s));
      }
    }
    const int64_t pages = (shape.context + kPageTokens - 1) / kPageTokens;
    return {.num_tokens = static_cast<int>(shape.tokens()),
            .num_sequences = static_cast<int>(shape.sequences),
            .max_context = static_cast<int>(shape.context),
            .token = arena_.upload(position),
            .position = arena_.upload(position),
            .sequence = arena_.upload(sequence),
            .pages = {ids(shape.sequences * pages), shape.sequences, pages},
            .fault = arena_.allocate_array<uint32_t>(shape.sequences)};
  }

  /// The guesses of the MTP layer: first a pair of every token, then one a sequence.
  void run_mtp(const Step& main, Operand from, const StepShape& shape) {
    const Mtp mtp(config_, weights_);
    for (int i = 0; i < std::max(1, options_.num_drafts); ++i) {
      StepShape pairs = shape;
      if (i > 0) pairs.each = 1;
      TokenBatch batch = upload(pairs);
      batch.pages = main.batch.pages;
      batch.first_position = Mtp::kFirstPosition;
      Step step{.context = context_,
                .batch = batch,
                .rope = main.rope,
                .caches = main.caches,
                .operand_dtype = main.operand_dtype,
                .projection = main.projection};
      const Operand out = mtp.forward(step, from, ids(pairs.tokens()));
      const auto logits = arena_.matrix<float>(pairs.sequences, config_.vocab_size);
      mtp.lm_head(step, out, ids(pairs.sequences), logits);
      sample(logits);
      from = out;
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
  ThreadTeam team_;
  Arena arena_;
  Context context_;
  std::vector<LayerCache> caches_;
};

}  // namespace

uint64_t step_scratch_bytes(const Config& config, const ModelWeights& weights, const RunnerOptions& options,
                            const RunSize& size) {
  const Backend& backend = options.backend != nullptr ? *options.backend : choose_backend();
  Steps steps(config, weights, options, backend);
  const int64_t context = std::max<int64_t>(size.longest(), 1);
  // Prompts, of several sequences where one is shorter than a step.
  const int64_t tokens = std::clamp<int64_t>(size.step_tokens, 1, size.sequences * context);
  const int64_t prompts = (tokens + context - 1) / context;
  steps.run({.sequences = prompts,
             .each = (tokens + prompts - 1) / prompts,
             .context = context,
             .logits_rows = std::max(size.prompt_logits, prompts)});
  // A token of each, with its drafts.
  const int64_t each = std::min<int64_t>(1 + options.num_drafts, context);
  steps.run(
      {.sequences = size.sequences, .each = each, .context = context, .logits_rows = size.sequences * each});
  return steps.peak_bytes();
}

}  // namespace fulgur
