#include "property/check_load.h"

#include <fmt/format.h>

#include <cmath>
#include <set>
#include <string>

#include "model/load.h"
#include "property/any_checkpoint.h"

namespace fulgur::property {
namespace {

constexpr int kThreads = 2;

/// A parameter from the tensors that it is made of.
reference::Table expected_weight(const Parameter& parameter, const StoredModel& stored) {
  const auto table = [&](size_t spelling, size_t part) -> const reference::Table& {
    return stored.tables.at(parameter.spellings[spelling][part].tensor);
  };
  if (parameter.spellings.size() == 2) {  // the indexer's projection
    if (!stored.tables.contains(parameter.spellings[0][0].tensor)) return table(1, 0);
    reference::Table rows = table(0, 0);
    const reference::Table& below = table(0, 1);
    rows.data.insert(rows.data.end(), below.data.begin(), below.data.end());
    rows.rows += below.rows;
    return rows;
  }
  const reference::Table& whole = table(0, 0);
  if (parameter.arrangement == Arrangement::kRows) return whole;
  const bool uk = parameter.arrangement == Arrangement::kUkTransposed;
  reference::Table part(parameter.rows, parameter.cols);
  for (int64_t head = 0; head < parameter.num_heads; ++head) {
    const int64_t first = head * (parameter.nope + parameter.value);
    for (int64_t i = 0; i < (uk ? parameter.nope : parameter.value); ++i) {
      for (int64_t c = 0; c < whole.cols; ++c) {
        (uk ? part.at(head * whole.cols + c, i) : part.at(head * parameter.value + i, c)) =
            whole.at(first + (uk ? 0 : parameter.nope) + i, c);
      }
    }
  }
  return part;
}

}  // namespace

void require_whole_plan(const ModelDraw& draw, const StoredModel& stored, const std::filesystem::path& folder,
                        bool with_mtp) {
  const Catalog catalog = read_catalog(folder);
  const ModelPlan plan = plan_model(read_config(folder), Precision::kNative, catalog, with_mtp);
  if (!plan.load.problems.empty()) fail(summary(plan.load.problems));
  std::set<std::string> used;
  std::set<std::string> ignored;
  const auto name_of = [&](int entry) { return catalog.entries[static_cast<size_t>(entry)].name; };
  for (const PlannedParameter& parameter : plan.load.parameters) {
    for (const PlannedSource& source : parameter.sources) {
      used.insert(name_of(source.entry));
      for (const PlannedScale& scale : source.scales) used.insert(name_of(scale.entry));
    }
  }
  for (const IgnoredTensor& tensor : plan.load.ignored) ignored.insert(name_of(tensor.entry));
  const bool uses_mtp = with_mtp && draw.mtp != Mtp::kStray;
  for (const StoredTensor& t : stored.tensors) {
    const bool needed =
        (t.use == StoredTensor::Use::kWeight || t.use == StoredTensor::Use::kScale) && (!t.mtp || uses_mtp);
    if (used.contains(t.tensor.name) != needed || ignored.contains(t.tensor.name) == needed)
      fail(t.tensor.name + (needed ? " is not used" : " is not ignored"));
  }
}

void for_each_weight(const StoredModel& stored, const std::filesystem::path& folder,
                     std::span<const WeightForm> readable, const WeightCheck& check) {
  const Catalog catalog = read_catalog(folder);
  const ModelPlan plan =
      plan_model(read_config(folder), Precision::kFull, catalog, /*with_mtp=*/true, readable);
  const LoadedWeights loaded = execute(plan.load, plan.parameters, catalog, kThreads);
  for (size_t i = 0; i < plan.parameters.size(); ++i) {
    const Weight& weight = loaded.weights[i];
    const auto address = reinterpret_cast<uintptr_t>(weight.data);
    if (is_plain(weight.form) && address % size_bytes(stored_dtype(weight.form)) != 0)
      fail(plan.parameters[i].name + " is misaligned");
    check(plan.parameters[i], expected_weight(plan.parameters[i], stored), reference::values_of(weight));
  }
}

void require_weights(const StoredModel& stored, const std::filesystem::path& folder,
                     std::span<const WeightForm> readable) {
  for_each_weight(
      stored, folder, readable, [](const Parameter& parameter, const auto& expected, const auto& found) {
        if (found.data.size() != expected.data.size()) fail(parameter.name + " has another size");
        for (size_t j = 0; j < found.data.size(); ++j) {
          const reference::Real& e = expected.data[j];
          if (std::abs(found.data[j].value - e.value) <= e.error) continue;
          fail(fmt::format("{}[{}] is {}, not {}", parameter.name, j, found.data[j].value, e.value));
        }
      });
}

}  // namespace fulgur::property
