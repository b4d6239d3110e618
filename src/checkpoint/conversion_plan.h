#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/catalog.h"
#include "checkpoint/load_plan.h"
#include "checkpoint/parameter.h"
#include "checkpoint/recipe.h"

namespace fulgur {

/// Which spelling is written of a parameter that has two: the indexer's projection, fused or in its parts.
enum class Spelling : uint8_t { kAsStored, kFused, kSeparate };

struct ConversionTarget {
  std::optional<Recipe> recipe;  // empty: each module in the form in which it is stored
  Spelling spelling = Spelling::kAsStored;
};

/// Bytes of a tensor of the catalog.
struct ByteRange {
  int entry = 0;
  uint64_t offset = 0;
  uint64_t bytes = 0;
};

/// Rows of a stored module.
struct SourceRows {
  const PlannedSource* source = nullptr;  // of the load plan
  int64_t first_row = 0;
  int64_t rows = 0;
};

/// A tensor to be written, and where its values come from.
struct ConvertedTensor {
  enum class Way : uint8_t {
    kCopied,      // the ranges, one after the other
    kReciprocal,  // of the one f32 that the range is
    kComputed,    // by the module that it belongs to
  };
  std::string name;
  std::string dtype;  // as headers spell it
  uint64_t element_bytes = 1;
  std::vector<int64_t> shape;
  uint64_t bytes = 0;
  Way way = Way::kCopied;
  std::vector<ByteRange> ranges;
  std::optional<ScaleRole> role;  // of a scale that is copied, or its reciprocal: checked as loading does
};

/// A module to be written: its weight, then its scales.
struct ConvertedModule {
  std::string name;  // without ".weight"
  std::vector<ConvertedTensor> tensors;
  const StorageForm* form = nullptr;  // null: no parameter's, carried over as it is
  bool matrix = false;
  /// What copied codes and scales are rows of.
  std::vector<SourceRows> copied;
  /// What computed tensors are computed from: their rows one below the other. The tensors are then those of
  /// store_as().
  std::vector<SourceRows> sources;
  int64_t rows = 0;
  int64_t cols = 0;
  BlockScales scales = BlockScales::kF32;
};

/// What a checkpoint is rewritten as: a value.
struct ConversionPlan {
  std::vector<ConvertedModule> modules;
  std::vector<int> left_out;  // entries of the catalog that no parameter uses, and no recipe can have
  std::vector<std::string>
      rounded;              // modules that become bf16 without a recipe, and whose values are rounded
  int inputs_left_out = 0;  // scales of activations that not all quantized matrices would have
};

/// Of a quantized weight that is written with the scale of its inputs.
bool has_input_scale(const ConvertedModule& module);

/// Made from a load plan without problems. Every tensor of the catalog is in it once, but for scales of
/// activations beside weights that change their form, and with a recipe those of a checkpoint where some
/// quantized weights would have one and others none: a config says one thing of all. What no parameter uses
/// is carried over; with a recipe, not what of it is quantized, or a scale: the config says nothing true of
/// that any more.
///
/// Without a recipe, and where it asks for the form that is stored, bytes are copied. A fused projection of
/// halves whose bytes can't stand below one another (another form, block rows that both would share, factors
/// of their own) becomes the first of bf16 and f32 that holds both exactly, else bf16, rounded once; a half
/// of a fused one whose block rows begin in the other half becomes bf16. Values of scales are looked at for
/// that: throws bad_scale.
ConversionPlan plan_conversion(std::span<const Parameter> parameters, const LoadPlan& plan,
                               const Catalog& catalog, const ConversionTarget& target);

}  // namespace fulgur
