#pragma once

#include <cstdint>
#include <vector>

#include "checkpoint/load_plan.h"
#include "checkpoint/load_team.h"

namespace fulgur {

/// The scales of a plan as kernels read them, by their entries in the catalog.
struct LoadedScales {
  std::vector<const void*> data;  // kBlocks: floats; kGroups: e4m3, where they lie or were drawn
  std::vector<double> factors;    // kFactor; kDivisor: its reciprocal
};

/// Loads and checks every scale that the plan uses, and checks those of activations beside them; their memory
/// is added to `loaded`. Throws a bad_scale for each tensor that holds a NaN, an infinity, a negative value,
/// or, where it scales a whole matrix or its inputs, a zero or a number so small that it has no reciprocal.
LoadedScales load_scales(const LoadPlan& plan, const Catalog& catalog, LoadTeam& team, LoadedWeights& loaded);

/// A source as it is stored, with its scales; without data where it is drawn.
Weight stored_weight(const PlannedSource& source, const Catalog& catalog, const LoadedScales& scales);

/// The values of one scale; none of kGroups, which are read where they lie. Throws the same bad_scale.
std::vector<float> read_scale(const PlannedScale& scale, const Catalog& catalog);

/// What a loaded scale takes in memory; 0 where it stays where it lies.
uint64_t scale_memory_bytes(ScaleRole role, const CatalogEntry& entry);

/// What load_scales() will read.
uint64_t scale_bytes(const LoadPlan& plan, const Catalog& catalog);

/// Memory for weights and scales, aligned to 64 bytes: a cache line, and the widest vector.
WeightMemory allocate_weights(size_t bytes);

}  // namespace fulgur
