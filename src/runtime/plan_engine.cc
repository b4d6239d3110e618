#include "runtime/plan_engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/available_cpus.h"
#include "base/error.h"
#include "runtime/choose_backend.h"
#include "runtime/page_pool.h"

namespace fulgur {
namespace {

/// Positions in the caches where nobody says.
constexpr int64_t kDefaultCacheTokens = 32768;

}  // namespace

EnginePlan plan_engine(const std::string& folder, const EngineOptions& options) {
  const int wanted_drafts = options.num_drafts.value_or(kDefaultDrafts);
  const auto in_range = [](int64_t value, int64_t least, int64_t most) {
    return value >= least && value <= most;
  };
  if (!in_range(options.threads, 0, EngineLimits::kThreads) ||
      !in_range(options.cache_tokens, 0, EngineLimits::kCacheTokens) ||
      !in_range(options.step_tokens, 1, EngineLimits::kStepTokens) ||
      !in_range(options.max_running, 1, EngineLimits::kRunning) || options.max_logprobs < 0 ||
      !in_range(wanted_drafts, 0, EngineLimits::kDrafts)) {
    throw Error(Problem{
        .kind = ErrorKind::kBadRequest,
        .message = "The engine's options are out of range.",
        .expected = fmt::format("threads from 0 to {}, cache_tokens from 0 to {}, num_drafts from 0 to {}, "
                                "step_tokens from 1 to {}, max_running from 1 to {}, max_logprobs from 0",
                                EngineLimits::kThreads, EngineLimits::kCacheTokens, EngineLimits::kDrafts,
                                EngineLimits::kStepTokens, EngineLimits::kRunning),
        .found = fmt::format(
            "threads {}, cache_tokens {}, num_drafts {}, step_tokens {}, max_running {}, max_logprobs {}",
            options.threads, options.cache_tokens, wanted_drafts, options.step_tokens, options.max_running,
            options.max_logprobs),
        .todo = "leave at their defaults those that don't matter"});
  }
  const int threads = options.threads > 0 ? options.threads : available_cpus();
  const Precision precision = options.full_precision ? Precision::kFull : Precision::kNative;
  PlannedModel planned =
      plan_loading(read_model_files(folder), {.precision = precision,
                                              .mtp = options.num_drafts && wanted_drafts > 0,
                                              .mtp_if_intact = !options.num_drafts});
  EnginePlan plan{.tokenizer = Tokenizer::load_if_present(folder)};
  const Config& config = planned.config;
  const int64_t tokens = options.cache_tokens > 0
                             ? options.cache_tokens
                             : std::min(kDefaultCacheTokens, config.max_position_embeddings);
  const int num_pages = static_cast<int>(pages_for(tokens));
  plan.runner = {.threads = threads,
                 .precision = precision,
                 .cache_forms = options.cache_forms,
                 .index_scratch_bytes = options.index_scratch_bytes,
                 .num_pages = num_pages,
                 .num_drafts = planned.plan.mtp ? wanted_drafts : 0};
  check_index_scratch(plan.runner.index_scratch_bytes, config, threads, choose_backend());
  const int64_t sequences = std::min<int64_t>(options.max_running, num_pages);
  const int64_t most_drawn = std::min(sequences * (1 + plan.runner.num_drafts), options.step_tokens);
  const int64_t logprobs_of_token = std::min<int64_t>(options.max_logprobs, config.vocab_size);
  plan.room = {.prompt_logits = options.prompt_logits,
               .max_logprobs = options.max_logprobs,
               .step_logprobs = static_cast<size_t>(most_drawn * logprobs_of_token)};
  // Of the token that is looked at: the vocabulary's ids in order, and what is handed out.
  const uint64_t logprobs_at_work = logprobs_of_token == 0
                                        ? 0
                                        : static_cast<uint64_t>(config.vocab_size) * sizeof(int32_t) +
                                              static_cast<uint64_t>(logprobs_of_token) * sizeof(TokenLogprob);
  const RunSize size{.cache_tokens = tokens,
                     .context = std::min(num_pages * int64_t{kPageTokens}, config.max_position_embeddings),
                     .step_tokens = options.step_tokens,
                     .sequences = sequences,
                     .hands_out_logits = options.prompt_logits,
                     .results_bytes = plan.room.step_logprobs * sizeof(TokenLogprob) + logprobs_at_work};
  plan.need = memory_need(config, planned.plan, planned.catalog, plan.runner, size);
  plan.runner.scratch_bytes = plan.need.scratch;
  plan.runner.host_logits_rows = size.host_logits_rows();
  plan.scheduler = {.num_pages = num_pages,
                    .step_tokens = size.most_step_tokens(),
                    .max_running = options.max_running,
                    .prefix_cache = options.prefix_cache};
  plan.planned = std::move(planned);
  return plan;
}

}  // namespace fulgur
