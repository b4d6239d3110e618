#include "model/inspection.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "checkpoint/ledger.h"
#include "checkpoint/load_scales.h"

namespace fulgur {

Inspection inspect_model(ModelFiles files, Precision precision) {
  std::optional<ModelPlan> plan = plan_files(files, precision, /*with_mtp=*/true);
  return {.config = std::move(files.config),
          .catalog = std::move(files.catalog),
          .plan = std::move(plan),
          .problems = std::move(files.problems)};
}

std::set<std::string, std::less<>> modules_of(std::span<const Parameter* const> parameters) {
  std::set<std::string, std::less<>> modules;
  for (const Parameter* parameter : parameters) {
    for (const std::vector<Part>& parts : parameter->spellings) {
      for (const Part& part : parts) modules.emplace(split_last(part.tensor).first);
    }
    for (const std::string& rival : parameter->rivals) modules.emplace(split_last(rival).first);
  }
  return modules;
}

bool is_of_tensor(const Problem& problem) {
  switch (problem.kind) {
    case ErrorKind::kBadConfig:  // whose fields stand in the place of a tensor's name
    case ErrorKind::kUnsupported:
    case ErrorKind::kBadTokenizer:
    case ErrorKind::kBadRequest:
      return false;
    default:
      return !problem.tensor.empty();
  }
}

std::map<std::string, uint64_t> stored_bytes(const LoadPlan& plan, const Catalog& catalog) {
  std::map<std::string, uint64_t> bytes;
  std::vector<bool> seen(catalog.entries.size());  // two parameters may be made from one tensor
  for (const PlannedParameter& parameter : plan.parameters) {
    for (const PlannedSource& source : parameter.sources) {
      const auto add = [&](int entry) {
        const auto number = static_cast<size_t>(entry);
        if (!seen[number]) bytes[form_text(source)] += catalog.entries[number].bytes;
        seen[number] = true;
      };
      add(source.entry);
      for (const PlannedScale& scale : source.scales) add(scale.entry);
    }
  }
  return bytes;
}

WeightBytes weight_bytes(const ModelPlan& plan, const Catalog& catalog, bool with_mtp) {
  WeightBytes bytes;
  std::vector<bool> seen(catalog.entries.size());
  const auto add_source = [&](int number) {
    const CatalogEntry& entry = catalog.entries[static_cast<size_t>(number)];
    if (!seen[static_cast<size_t>(number)] && !entry.drawn) bytes.sources += entry.bytes;
    seen[static_cast<size_t>(number)] = true;
  };
  const size_t count =
      with_mtp ? plan.load.parameters.size() : std::min(plan.num_main, plan.load.parameters.size());
  for (size_t i = 0; i < count; ++i) {
    const PlannedParameter& planned = plan.load.parameters[i];
    const Parameter& parameter = plan.parameters[i];
    if (planned.sources.empty()) continue;  // a problem says why
    const bool mapped = planned.sources.front().steps.front() == StepKind::kMap;
    (mapped ? bytes.mapped : bytes.copied) +=
        static_cast<uint64_t>(parameter.rows * row_bytes(planned.held, parameter.cols));
    for (const PlannedSource& source : planned.sources) {
      if (!mapped) add_source(source.entry);
      for (const PlannedScale& scale : source.scales) {
        const auto number = static_cast<size_t>(scale.entry);
        if (seen[number]) continue;
        const CatalogEntry& entry = catalog.entries[number];
        const uint64_t copied = scale_memory_bytes(scale.role, entry);
        (copied > 0 ? bytes.copied : bytes.mapped) += copied > 0 ? copied : entry.bytes;
        if (copied > 0) add_source(scale.entry);
        seen[number] = true;
      }
    }
  }
  return bytes;
}

ModelWeights weight_shapes(const ModelPlan& plan) {
  static constexpr std::byte kPresent{};
  for (size_t i = 0; i < plan.slots.size(); ++i) {
    const Parameter& parameter = plan.parameters[i];
    const PlannedParameter& planned = plan.load.parameters[i];
    Weight& weight = *plan.slots[i];
    weight = {.form = planned.held,
              .rows = parameter.rows,
              .cols = parameter.cols,
              .data = &kPresent,
              .scales = &kPresent};
    if (planned.sources.empty()) continue;
    weight.block_rows = planned.sources.front().block_rows;
    weight.block_cols = planned.sources.front().block_cols;
  }
  ModelWeights shapes = *plan.weights;
  for (Weight* slot : plan.slots) *slot = {};  // as it was: loading fills them
  share_weights(shapes);
  return shapes;
}

}  // namespace fulgur
