#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/catalog.h"
#include "model/config.h"
#include "model/load.h"

namespace fulgur {

/// What a checkpoint's headers and config tell: how it would be loaded, MTP layer included, and everything
/// that is wrong with it.
struct Inspection {
  std::optional<Config> config;
  std::optional<Catalog> catalog;
  std::optional<ModelPlan> plan;  // where there are both
  std::vector<Problem> problems;
};

/// Never throws for what the files hold: that is a problem.
Inspection inspect_model(ModelFiles files, Precision precision);

/// The tensors that parameters are made from in any spelling, and those that stand beside them, by module.
std::set<std::string, std::less<>> modules_of(std::span<const Parameter* const> parameters);
/// Whether a problem is of one tensor; else of a file, the config, the tokenizer or a request.
bool is_of_tensor(const Problem& problem);

/// Bytes of a checkpoint as it is stored, by storage form ("fp8-block 128x128", its scales included); what is
/// ignored is not among them.
std::map<std::string, uint64_t> stored_bytes(const LoadPlan& plan, const Catalog& catalog);

/// What the weights of a plan take in memory: mapped where they lie in the files, or copied, and the parts of
/// files that these copies are made from. `with_mtp` false: those of the main model alone.
struct WeightBytes {
  uint64_t mapped = 0;
  uint64_t copied = 0;
  uint64_t sources = 0;  // read once; the page cache's, as what is mapped
};
WeightBytes weight_bytes(const ModelPlan& plan, const Catalog& catalog, bool with_mtp);

/// The weights that the plan will fill, in their forms and shapes but without values: what an op that only
/// allocates looks at. The plan has no problems.
ModelWeights weight_shapes(const ModelPlan& plan);

}  // namespace fulgur
