#include <fmt/format.h>

#include "checkpoint/load_plan.h"

namespace fulgur {
namespace {

std::string text(StepKind kind, std::string_view from, std::string_view to) {
  switch (kind) {
    case StepKind::kMap:
      return "map";
    case StepKind::kDraw:
      return "draw";
    case StepKind::kCopy:
      return "copy";
    case StepKind::kConvert:
      return fmt::format("convert {} -> {}", from, to);
    case StepKind::kDequantize:
      return fmt::format("dequantize {} -> {}", from, to);
    case StepKind::kConcatRows:
      return "concat rows";
    case StepKind::kTranspose:
      return "transpose per head";
    case StepKind::kSplitHeads:
      return "split heads";
    case StepKind::kMultiplyBy:
      return "multiply by";
    case StepKind::kDivideBy:
      return "divide by";
  }
  return {};
}

std::vector<std::string> texts(const std::vector<StepKind>& steps, std::string_view from,
                               std::string_view to) {
  std::vector<std::string> result;
  for (const StepKind step : steps) result.push_back(text(step, from, to));
  return result;
}

}  // namespace

std::string form_text(const PlannedSource& source) {
  if (source.form->form != WeightForm::kFp8) return std::string(source.form->label);
  if (source.block_rows == kFp8Block && source.block_cols == kFp8Block)
    return fmt::format("fp8-block {}x{}", kFp8Block, kFp8Block);
  return source.block_rows == 1 ? "fp8-row" : "fp8-tensor";
}

std::vector<std::string> step_texts(const PlannedSource& source, WeightForm held) {
  return texts(source.steps, form_text(source), name(held));
}

std::vector<std::string> step_texts(const PlannedScale& scale, const Catalog& catalog) {
  return texts(scale.steps, name(catalog.entries[static_cast<size_t>(scale.entry)].dtype), "F32");
}

}  // namespace fulgur
