#include "runtime/memory_need.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/available_memory.h"
#include "base/error.h"
#include "base/page_bytes.h"
#include "base/process_memory.h"
#include "base/thread_stack.h"
#include "model/rope.h"
#include "ops/indexer_prepare.h"
#include "ops/paged_cache.h"
#include "runtime/cache_pool.h"
#include "runtime/choose_backend.h"

namespace fulgur {
namespace {

/// What a process of any model takes besides, measured: code that runs only in steps, and what a thread has
/// on its stack before it computes, and elsewhere.
constexpr uint64_t kCodeToCome = 208 << 10;
constexpr uint64_t kThreadBytes = 12 << 10;
/// Kernel stack, page tables and the like, measured with 1,024 threads.
constexpr uint64_t kKernelBytesOfThread = 32 << 10;
/// Tables of pages, of what is mapped or allocated: an entry for each page.
constexpr uint64_t kPageEntryBytes = 8;
/// Of each request besides its tokens, from submit() to its end, measured.
constexpr uint64_t kRequestBytes = 3 << 10;

/// In the unit of the lesser, with as many digits as it takes to tell them apart.
std::pair<std::string, std::string> told_apart(uint64_t a, uint64_t b) {
  constexpr std::pair<uint64_t, const char*> kUnits[] = {
      {1'000'000'000, "GB"}, {1'000'000, "MB"}, {1'000, "KB"}};
  for (const auto& [unit, name] : kUnits) {
    if (std::min(a, b) < unit) continue;
    const auto text = [&, unit = unit, name = name](uint64_t bytes) {
      return fmt::format("{:.2f} {}", static_cast<double>(bytes) / static_cast<double>(unit), name);
    };
    if (text(a) != text(b)) return {text(a), text(b)};
  }
  return {fmt::format("{} bytes", a), fmt::format("{} bytes", b)};
}

}  // namespace

MemoryNeed memory_need(const Config& config, const ModelPlan& plan, const Catalog& catalog,
                       const RunnerOptions& options, const RunSize& size) {
  const Backend& backend = options.backend != nullptr ? *options.backend : choose_backend();
  const bool mtp = options.runs_mtp();
  const auto pages = static_cast<uint64_t>(size.num_pages());
  const CacheDTypes dtypes = cache_dtypes(options.cache_forms, config, options.precision, backend);
  const CachePageBytes page = cache_page_bytes(config, mtp, dtypes);
  const auto positions =
      std::min<uint64_t>(pages * kPageTokens, static_cast<uint64_t>(config.max_position_embeddings));
  const auto requests = static_cast<uint64_t>(size.requests > 0 ? size.requests : size.sequences);
  MemoryNeed need{.weights = weight_bytes(plan, catalog, plan.mtp),
                  .latents = pages * page.latents,
                  .index_keys = pages * page.index_keys,
                  .tables = positions * static_cast<uint64_t>(config.qk_rope_head_dim) * sizeof(float),
                  .host = size.results_bytes + requests * kRequestBytes +
                          static_cast<uint64_t>(size.prompt_ids()) * sizeof(int32_t) +
                          static_cast<uint64_t>(size.host_logits_rows() * config.vocab_size) * sizeof(float),
                  .stacks = static_cast<uint64_t>(options.threads) * (backend.stack_bytes + kThreadBytes),
                  .kernel = static_cast<uint64_t>(options.threads) * kKernelBytesOfThread,
                  .reserved = static_cast<uint64_t>(options.threads) * default_stack_bytes()};
  if (mtp) {  // F of each page's last token
    need.tables +=
        pages * static_cast<uint64_t>(config.hidden_size) * size_bytes(operand_dtype(options.precision));
  }
  if (plan.load.problems.empty() && catalog.gaps.empty()) {
    need.scratch = step_scratch_bytes(config, weight_shapes(plan), options, size);
  }
  // With the code that planning has run, and what sines and cosines take of the mathematics library, which is
  // as much again as some models.
  std::vector<float> cos;
  std::vector<float> sin;
  compute_rope(config, 0, kPageTokens, cos, sin);
  need.process = settled_rss_bytes() + kCodeToCome;
  need.before = peak_rss_bytes();
  need.kernel += (need.weights.mapped + need.weights.copied + need.cache() + need.tables + need.scratch) /
                 kLeastPageBytes * kPageEntryBytes;
  return need;
}

void MemoryNeed::add_engine(const MemoryNeed& other) {
  latents += other.latents;
  index_keys += other.index_keys;
  tables += other.tables;
  scratch += other.scratch;
  host += other.host;
  stacks += other.stacks;
  kernel += other.kernel;
  reserved += other.reserved;
}

void check_index_scratch(int64_t bytes, const Config& config, int threads, const Backend& backend) {
  if (!config.sparse() || backend.least_index_scratch == nullptr) return;
  const IndexerShape shape{.num_heads = static_cast<int>(config.index_n_heads),
                           .head_dim = static_cast<int>(config.index_head_dim),
                           .rope = static_cast<int>(config.qk_rope_head_dim),
                           .rope_interleave = config.indexer_rope_interleave};
  const int64_t topk = std::min(config.index_topk, config.max_position_embeddings);
  const int64_t least = backend.least_index_scratch(shape, topk, config.max_position_embeddings, threads);
  if (bytes >= least) return;
  throw Error(Problem{
      .kind = ErrorKind::kBadRequest,
      .message =
          "The scratch for index scores (--index-scratch, EngineOptions::index_scratch_bytes) is too small.",
      .expected = fmt::format("at least {} bytes for {} threads and index_topk {}", least, threads,
                              config.index_topk),
      .found = fmt::format("{} bytes", bytes),
      .todo = "give it more, or use fewer threads"});
}

void check_fits(const MemoryNeed& need) {
  const std::optional<uint64_t> available = available_memory_bytes();
  const uint64_t wanted = need.allocated();
  if (available && wanted > *available) {
    const uint64_t weights = need.weights.copied;
    if (weights > *available) {
      const auto [takes, left] = told_apart(weights, *available);
      throw Error(Problem{
          .kind = ErrorKind::kBadRequest,
          .message = fmt::format("The model's weights take {}, but {} of memory are available.", takes, left),
          .expected = fmt::format("at most {} bytes", *available),
          .found = fmt::format("{} bytes of weights that are not used where they lie in a file", weights),
          .todo = "use a machine with more memory, or of random weights ask for less: --layers N, "
                  "--set n_routed_experts=N, a smaller --weights-form"});
    }
    const auto [takes, left] = told_apart(wanted, *available);
    throw Error(Problem{
        .kind = ErrorKind::kBadRequest,
        .message = fmt::format("The model takes {}, but {} of memory are available.", takes, left),
        .expected = fmt::format("at most {} bytes", *available),
        .found = fmt::format(
            "{} bytes of weights, {} of caches, {} for the steps, {} of threads and page tables", weights,
            need.cache(), need.tables + need.scratch + need.host, need.stacks + need.kernel),
        .todo = "ask for less of it: fewer tokens in the caches or in a step, FP8 caches (--kv-dtype fp8, "
                "EngineOptions::cache_forms), no drafts (--speculate 0, num_drafts), fewer threads"});
  }
  const std::optional<uint64_t> space = available_address_space_bytes();
  if (!space || need.address_space() <= *space) return;
  const auto [takes, left] = told_apart(need.address_space(), *space);
  throw Error(Problem{
      .kind = ErrorKind::kBadRequest,
      .message =
          fmt::format("The model takes {} of address space, but this process is let have {}.", takes, left),
      .expected = fmt::format("at most {} bytes", *space),
      .found = fmt::format("{} bytes, {} of them for threads' stacks", need.address_space(), need.reserved),
      .todo = "raise the limits that it is started with (ulimit -v, ulimit -d), or use fewer threads"});
}

}  // namespace fulgur
