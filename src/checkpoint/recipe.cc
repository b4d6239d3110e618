#include "checkpoint/recipe.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <stdexcept>

#include "checkpoint/ledger.h"

namespace fulgur {
namespace {

constexpr std::string_view kRoutedExperts = "model.layers.*.mlp.experts.*.*.weight";
constexpr std::string_view kSharedExperts = "model.layers.*.mlp.shared_experts.*.weight";
constexpr std::string_view kDenseMlps = "model.layers.*.mlp.*.weight";
constexpr std::string_view kWeightsProj = "model.layers.*.self_attn.indexer.weights_proj.weight";
constexpr std::string_view kCorrectionBias = "model.layers.*.mlp.gate.e_score_correction_bias";

struct Row {
  TargetForm target;
  std::string_view name;
  std::string_view form;  // of kStorageForms
};
constexpr std::array<Row, 4> kRows = {{
    {TargetForm::kBf16, "bf16", "bf16"},
    {TargetForm::kFp8Block, "fp8-block", "fp8"},
    {TargetForm::kNvfp4Modelopt, "nvfp4-modelopt", "nvfp4-modelopt"},
    {TargetForm::kNvfp4Ct, "nvfp4-ct", "nvfp4-ct"},
}};

const Row& row_of(TargetForm form) { return kRows[static_cast<size_t>(form)]; }

/// What each of Fp4Modules adds to the ones before it.
constexpr std::array<std::string_view, 3> kFp4Patterns = {kRoutedExperts, kSharedExperts, kDenseMlps};

/// Which of the modules that may be quantized a release does quantize.
bool chooses(const Recipe& recipe, std::string_view tensor) {
  if (recipe.form == TargetForm::kBf16) return false;
  if (recipe.form == TargetForm::kFp8Block) return !matches_pattern(tensor, kWeightsProj);
  const auto count = static_cast<size_t>(recipe.fp4) + 1;
  return std::any_of(kFp4Patterns.begin(), kFp4Patterns.begin() + count,
                     [&](std::string_view pattern) { return matches_pattern(tensor, pattern); });
}

int64_t blocks(int64_t extent, int64_t block) { return (extent + block - 1) / block; }

/// Dtype and shape of a scale beside a weight [rows, cols].
StoredTensor scale_tensor(std::string name, ScaleRole role, int64_t rows, int64_t cols, BlockScales scales) {
  switch (role) {
    case ScaleRole::kBlocks:
      return {std::move(name),
              scales == BlockScales::kE8m0 ? DType::kF8E8M0 : DType::kF32,
              {blocks(rows, kFp8Block), blocks(cols, kFp8Block)}};
    case ScaleRole::kGroups:
      return {std::move(name), DType::kF8E4M3, {rows, cols / kNvfp4Group}};
    case ScaleRole::kFactor:
      return {std::move(name), DType::kF32, {}};
    case ScaleRole::kDivisor:
      return {std::move(name), DType::kF32, {1}};
    case ScaleRole::kActivations:
      break;
  }
  throw std::logic_error("a scale of activations is not made from weights");
}

}  // namespace

std::string_view name(TargetForm form) { return row_of(form).name; }

uint64_t size_bytes(const StoredTensor& tensor) {
  uint64_t bytes = size_bytes(tensor.dtype);
  for (const int64_t dim : tensor.shape) bytes *= static_cast<uint64_t>(dim);
  return bytes;
}

const StorageForm& storage_form(std::string_view label) {
  const auto at = std::find_if(kStorageForms.begin(), kStorageForms.end(),
                               [&](const StorageForm& form) { return form.label == label; });
  if (at == kStorageForms.end()) throw std::logic_error(fmt::format("no storage form '{}'", label));
  return *at;
}

const StorageForm& recipe_form(const Recipe& recipe, const Part& part, bool quantizable) {
  const bool matrix = part.shape.size() == 2;
  if (!matrix) return storage_form(matches_pattern(part.tensor, kCorrectionBias) ? "f32" : "bf16");
  const StorageForm& form = storage_form(row_of(recipe.form).form);
  const bool fits = form.form != WeightForm::kNvfp4 || part.shape.back().size % kNvfp4Group == 0;
  return quantizable && fits && chooses(recipe, part.tensor) ? form : storage_form("bf16");
}

StoredPart store_as(const StorageForm& form, const Part& part, BlockScales scales) {
  StoredPart stored{.form = &form};
  std::vector<int64_t> shape;
  for (const Dim& dim : part.shape) shape.push_back(dim.size);
  if (form.scales.empty()) {  // any tensor, by its own name
    stored.tensors.push_back({part.tensor, form.dtype, std::move(shape)});
    return stored;
  }
  const std::string_view module = split_last(part.tensor).first;
  const int64_t rows = shape.front();
  const int64_t cols = shape.back();
  if (form.form == WeightForm::kNvfp4) shape.back() /= kNvfp4CodesPerByte;
  stored.tensors.push_back({fmt::format("{}.{}", module, form.weight), form.dtype, std::move(shape)});
  for (auto scale = form.scales.begin(); scale != form.scales.end(); ++scale) {
    if (scale->role == ScaleRole::kActivations) continue;
    if (scale != form.scales.begin() && std::prev(scale)->role == scale->role) continue;
    stored.tensors.push_back(
        scale_tensor(fmt::format("{}.{}", module, scale->name), scale->role, rows, cols, scales));
  }
  return stored;
}

StoredPart stored_part(const Recipe& recipe, const Part& part, bool quantizable) {
  return store_as(recipe_form(recipe, part, quantizable), part, recipe.scales);
}

}  // namespace fulgur
