#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/weight.h"
#include "checkpoint/catalog.h"
#include "checkpoint/parameter.h"

namespace fulgur {

/// What is done with one source tensor. In the order of the enumerators, each where needed.
enum class StepKind {
  kMap,         // used where it lies in the file
  kCopy,        // copied as it is: misaligned for its type, or to stand beside other parts
  kConvert,     // to the dtype it is held in
  kConcatRows,  // placed below the parts before it
  kTranspose,   // UK, per head
  kSplitHeads,  // UV rows of every head
};

std::string_view name(StepKind kind);

struct PlannedSource {
  int entry = 0;  // index into Catalog::entries
  std::vector<StepKind> steps;
};

struct PlannedParameter {
  WeightForm held = WeightForm::kBf16;
  std::vector<PlannedSource> sources;  // in the order of the rows
};

struct IgnoredTensor {
  int entry = 0;
  std::string rule;
};

/// Parameters x catalog: a value that `inspect` prints, tests compare, `convert` executes to disk and the
/// engine to memory.
struct LoadPlan {
  std::vector<PlannedParameter> parameters;  // parallel to the parameters that were resolved
  std::vector<IgnoredTensor> ignored;
  std::vector<Problem> problems;  // everything that is wrong, never just the first
};

/// Never throws: the plan and all problems. Every tensor of the catalog is consumed by a parameter (kv_b_proj
/// by the two that divide it), or ignored by a rule, or a problem.
LoadPlan resolve(std::span<const Parameter> parameters, std::span<const IgnoreRule> ignore,
                 const Catalog& catalog);

/// Called as bytes are loaded, from one thread at a time: bytes so far and in all.
using LoadProgress = std::function<void(uint64_t done, uint64_t total)>;

/// The weights of an executed plan; owns copies and keeps files mapped.
struct LoadedWeights {
  std::vector<Weight> weights;  // parallel to the plan's parameters
  std::vector<std::shared_ptr<const MappedFile>> files;
  std::vector<std::unique_ptr<std::byte[], void (*)(std::byte*)>> memory;
  uint64_t mapped_bytes = 0;
  uint64_t copied_bytes = 0;
};

/// Executes a plan on `num_threads` threads. Throws the plan's problems if it has any, and io_error if a file
/// shrank or was written to meanwhile. Copies are 64-byte aligned, mapped weights to their
/// type. `progress` must not throw.
LoadedWeights execute(const LoadPlan& plan, std::span<const Parameter> parameters, const Catalog& catalog,
                      int num_threads, const LoadProgress& progress = nullptr);

}  // namespace fulgur
