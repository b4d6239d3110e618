#include "model/excess_experts.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <string_view>

#include "checkpoint/storage_form.h"

namespace fulgur {
namespace {

/// Twice the matrices of all experts of the largest release (GLM-5: 256 in each of 76 layers): that many may
/// be missing one by one, each with its line or in the count.
constexpr int64_t kMostMissing = 120'000;
constexpr int64_t kMatrices = 3;  // of an expert

bool holds_module(const Catalog& catalog, const std::string& module) {
  return std::any_of(kStorageForms.begin(), kStorageForms.end(), [&](const StorageForm& form) {
    return catalog.find(fmt::format("{}.{}", module, form.weight)) != nullptr;
  });
}

/// The name of an expert's matrix that isn't there: among more names than there are tensors, and soon found.
std::string first_missing(const Config& config, const Catalog& catalog) {
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    if (!config.moe_layer[static_cast<size_t>(i)]) continue;
    for (int64_t e = 0; e < config.n_routed_experts; ++e) {
      for (const std::string_view part : {"gate_proj", "up_proj", "down_proj"}) {
        const std::string module = fmt::format("model.layers.{}.mlp.experts.{}.{}", i, e, part);
        if (!holds_module(catalog, module)) return module + ".weight";
      }
    }
  }
  return {};
}

}  // namespace

std::optional<ExcessExperts> excess_experts(const Config& config, const Catalog& catalog) {
  const int64_t num_moe_layers = std::count(config.moe_layer.begin(), config.moe_layer.end(), true);
  const int64_t wanted = kMatrices * config.n_routed_experts * num_moe_layers;
  const auto held = static_cast<int64_t>(catalog.entries.size());
  if (wanted <= held + kMostMissing) return std::nullopt;

  const int64_t most = (held + kMostMissing) / (kMatrices * num_moe_layers);
  ExcessExperts excess;
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    if (!config.moe_layer[static_cast<size_t>(i)]) continue;
    const std::string router = fmt::format("model.layers.{}.mlp.gate.weight", i);
    const CatalogEntry* entry = catalog.find(router);
    if (entry == nullptr || entry->shape.empty() || entry->shape.front() == config.n_routed_experts) continue;
    excess.planned = std::clamp(entry->shape.front(), excess.planned, most);
    excess.problems.push_back(
        {.kind = ErrorKind::kShapeMismatch,
         .file = catalog.file_of(*entry),
         .tensor = router,
         .message = fmt::format("{} has another shape than config.json's n_routed_experts says.", router),
         .expected = fmt::format("{} rows (n_routed_experts)", config.n_routed_experts),
         .found = fmt::format("{} rows", entry->shape.front()),
         .todo = "check that config.json belongs to this checkpoint"});
  }
  if (!catalog.gaps.empty() || !catalog.gaps.unlisted.empty()) return excess;
  const std::string tensor = first_missing(config, catalog);
  excess.problems.push_back(
      {.kind = ErrorKind::kMissingTensor,
       .file = catalog.source,
       .tensor = tensor,
       .message = fmt::format("{} is missing, the first of many: config.json asks for {} tensors of experts.",
                              tensor, wanted),
       .expected = fmt::format("n_routed_experts = {} in each of {} MoE layers", config.n_routed_experts,
                               num_moe_layers),
       .found = fmt::format("{} tensors in all", held),
       .todo = "check that config.json belongs to this checkpoint"});
  return excess;
}

}  // namespace fulgur
