#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/error.h"
#include "checkpoint/catalog.h"
#include "model/config.h"

namespace fulgur {

/// Of a config that asks for more experts than are worth planning (65536 in each of 1000 layers, say), and of
/// which the checkpoint lacks more than any that is published has.
struct ExcessExperts {
  std::vector<Problem> problems;
  int64_t planned = 1;  // as many in a layer as its routers have rows, so that what else is wrong is told too
};

/// Empty where all can be planned, missing ones too. Where the catalog has gaps, nothing is said to be
/// missing.
std::optional<ExcessExperts> excess_experts(const Config& config, const Catalog& catalog);

}  // namespace fulgur
