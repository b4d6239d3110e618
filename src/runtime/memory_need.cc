#include "runtime/memory_need.h"

#include <fmt/format.h>

#include <optional>

#include "base/available_memory.h"
#include "base/error.h"
#include "ops/paged_cache.h"
#include "runtime/cache_pool.h"

namespace fulgur {
namespace {

std::string gigabytes(uint64_t bytes) { return fmt::format("{:.2f} GB", static_cast<double>(bytes) / 1e9); }

}  // namespace

MemoryNeed memory_need(const Config& config, Precision precision, const ModelPlan& plan,
                       const Catalog& catalog, int64_t cache_tokens, bool with_mtp) {
  const DType dtype = operand_dtype(precision);
  const auto pages = static_cast<uint64_t>((cache_tokens + kPageTokens - 1) / kPageTokens);
  return {.weights = weight_bytes(plan, catalog, with_mtp),
          .cache = pages * cache_page_bytes(config, with_mtp, dtype)};
}

void check_fits(const MemoryNeed& need) {
  const std::optional<uint64_t> available = available_memory_bytes();
  const uint64_t wanted = need.weights.copied + need.cache;
  if (!available || wanted <= *available) return;
  throw Error(
      Problem{.kind = ErrorKind::kBadRequest,
              .message = fmt::format("The model takes {}, but {} of memory are available.", gigabytes(wanted),
                                     gigabytes(*available)),
              .expected = fmt::format("at most {} bytes", *available),
              .found = fmt::format("{} bytes of weights and {} of caches", need.weights.copied, need.cache),
              .todo = "ask for less of it: --layers N, --set n_routed_experts=N, a smaller --weights-form, "
                      "fewer tokens"});
}

}  // namespace fulgur
