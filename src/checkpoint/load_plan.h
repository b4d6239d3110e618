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
#include "checkpoint/fp8_scheme.h"
#include "checkpoint/parameter.h"
#include "checkpoint/storage_form.h"

namespace fulgur {

/// What is done with one source tensor. In the order of the enumerators, each where needed.
enum class StepKind {
  kMap,         // used where it lies in the file
  kDraw,        // drawn at random into memory, in its stored form
  kCopy,        // copied as it is: misaligned for its type, or to stand beside other parts
  kConvert,     // to another plain type
  kDequantize,  // to the plain form it is held in
  kConcatRows,  // placed below the parts before it
  kTranspose,   // UK, per head
  kSplitHeads,  // UV rows of every head
  kMultiplyBy,  // a scale of the whole matrix
  kDivideBy,    // the same, the other way round
};

/// A scale of a quantized module.
struct PlannedScale {
  int entry = 0;  // index into Catalog::entries
  ScaleRole role{};
  std::vector<StepKind> steps;
};

/// A module's weight and the scales that belong to it: neither goes anywhere without the other.
struct PlannedSource {
  int entry = 0;                      // index into Catalog::entries
  const StorageForm* form = nullptr;  // a row of kStorageForms
  int64_t block_rows = 0;             // FP8: how much of the matrix one scale covers
  int64_t block_cols = 0;
  std::vector<PlannedScale> scales;
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
  std::vector<int>
      activations;  // of the ignored, scales beside weights in use: they must be such as could be
  std::vector<Problem> problems;  // everything that is wrong, never just the first
};

/// Every form that a weight can be held in.
inline constexpr WeightForm kAllForms[] = {WeightForm::kBf16, WeightForm::kF16, WeightForm::kF32,
                                           WeightForm::kFp8, WeightForm::kNvfp4};

/// Never throws: the plan and all problems. Every tensor of the catalog is consumed by a parameter (kv_b_proj
/// by the two that divide it), or ignored by a rule, or a problem. What a module is stored as is read off its
/// tensors; `fp8` says which scales FP8 weights may have. A form that is not among the `readable_forms` of
/// the back end is dequantized.
LoadPlan resolve(std::span<const Parameter> parameters, std::span<const IgnoreRule> ignore,
                 const Catalog& catalog, const Fp8Scheme& fp8 = {},
                 std::span<const WeightForm> readable_forms = kAllForms);

/// A source in words, as `inspect` prints it: "fp8-block 128x128", "nvfp4-ct", "bf16"; and what is done with
/// it and with a scale: "dequantize fp8-block 128x128 -> bf16", "concat rows".
std::string form_text(const PlannedSource& source);
std::vector<std::string> step_texts(const PlannedSource& source, WeightForm held);
std::vector<std::string> step_texts(const PlannedScale& scale, const Catalog& catalog);

/// Called as bytes are loaded, from one thread at a time: bytes so far and in all.
using LoadProgress = std::function<void(uint64_t done, uint64_t total)>;

/// Memory that copies of weights and scales lie in, aligned to 64 bytes.
using WeightMemory = std::unique_ptr<std::byte[], void (*)(std::byte*)>;

/// The weights of an executed plan; owns copies and keeps files mapped.
struct LoadedWeights {
  std::vector<Weight> weights;  // parallel to the plan's parameters
  std::vector<std::shared_ptr<const MappedFile>> files;
  std::vector<WeightMemory> memory;
  uint64_t mapped_bytes = 0;
  uint64_t copied_bytes = 0;

  /// To be called after reading, both throw io_error. The first, a load a file: where reading met a page that
  /// is gone. The second asks the system about each file too (MappedFile::throw_if_damaged says what it
  /// sees).
  void throw_if_damaged() const;
  void throw_if_changed() const;
};

/// Executes a plan on `num_threads` threads. Throws the plan's problems if it has any, bad_scale for every
/// scale with a value that none may have, and io_error if a file shrank or was written to meanwhile. Copies
/// are 64-byte aligned, mapped plain weights to their type, quantized ones not at all. `progress` must not
/// throw.
LoadedWeights execute(const LoadPlan& plan, std::span<const Parameter> parameters, const Catalog& catalog,
                      int num_threads, const LoadProgress& progress = nullptr);

}  // namespace fulgur
