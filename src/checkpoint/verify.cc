#include "checkpoint/verify.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <limits>
#include <string>
#include <utility>

#include "base/printable.h"
#include "checkpoint/find_value.h"
#include "checkpoint/load_scales.h"
#include "checkpoint/load_team.h"
#include "checkpoint/scaled_values.h"

namespace fulgur {
namespace {

constexpr int64_t kTaskBytes = 1 << 22;
constexpr int64_t kNone = std::numeric_limits<int64_t>::max();

/// A tensor of weights, and the first elements of it that are bad.
struct Tensor {
  const PlannedSource* source = nullptr;
  const CatalogEntry* entry = nullptr;
  const CatalogEntry* scale = nullptr;  // of its blocks or groups, if it has one
  Weight stored;                        // of a drawn tensor without data
  bool may_overflow = false;            // its largest code under its largest scale would
  std::atomic<int64_t> first_bad{kNone};
  std::atomic<int64_t> first_infinite{kNone};    // of those that its scales make
  std::atomic<int64_t> first_zero_scale{kNone};  // an element of `scale` that is 0 over codes that are not
};

struct Task {
  Tensor* tensor = nullptr;
  int64_t first_row = 0;
  int64_t num_rows = 0;
};

void keep_first(std::atomic<int64_t>& first, int64_t index) {
  for (int64_t seen = first; index < seen && !first.compare_exchange_weak(seen, index);) {
  }
}

uint64_t row_bytes(const Tensor& t) { return t.entry->bytes / static_cast<uint64_t>(t.stored.rows); }

uint64_t check(const Task& task, const Catalog& catalog, std::vector<std::byte>& scratch) {
  Tensor& t = *task.tensor;
  const uint64_t begin = static_cast<uint64_t>(task.first_row) * row_bytes(t);
  const uint64_t bytes = static_cast<uint64_t>(task.num_rows) * row_bytes(t);
  const std::byte* rows = scratch.data();
  if (t.entry->drawn) {
    catalog.read(*t.entry, begin, std::span(scratch).first(bytes));
  } else {
    rows = catalog.bytes(*t.entry).data() + begin;
  }
  const int64_t first = task.first_row * t.stored.cols;
  if (const auto bad = first_not_finite(t.entry->dtype, rows, task.num_rows * t.stored.cols))
    keep_first(t.first_bad, first + *bad);
  if (t.scale == nullptr) return bytes;
  Weight part = t.stored.take_rows(task.first_row, task.num_rows);
  part.data = rows;
  if (const auto zero = first_zero_scale(part, task.first_row))
    keep_first(t.first_zero_scale, zero->row * zero->cols + zero->col);
  if (!t.may_overflow || t.entry->drawn) return bytes;
  if (const auto infinite = first_overflow(part)) keep_first(t.first_infinite, first + *infinite);
  return bytes;
}

Problem bad_value(const Tensor& t) {
  const std::string index = index_text(*t.entry, t.first_bad, t.stored.cols);
  return {.kind = ErrorKind::kBadValue,
          .tensor = t.entry->name,
          .message = fmt::format("{}{} is NaN or infinite.", printable(t.entry->name), index),
          .expected = "finite numbers",
          .found = fmt::format("a value at {} that isn't", index)};
}

Problem infinite_value(const Tensor& t) {
  return infinite_product_problem(*t.entry, t.first_infinite, t.stored.cols);
}

Problem zero_scale(const Tensor& t) {
  const int64_t cols = t.scale->shape.empty() ? 1 : t.scale->shape.back();
  return zero_scale_problem(*t.scale, *t.entry, {t.first_zero_scale / cols, t.first_zero_scale % cols, cols});
}

/// Each tensor of weights once, whatever is made from it.
std::vector<std::unique_ptr<Tensor>> list_tensors(const LoadPlan& plan, const Catalog& catalog,
                                                  const LoadedScales& scales) {
  std::vector<std::unique_ptr<Tensor>> tensors;
  std::vector<bool> seen(catalog.entries.size());
  for (const PlannedParameter& parameter : plan.parameters) {
    for (const PlannedSource& source : parameter.sources) {
      const auto number = static_cast<size_t>(source.entry);
      if (seen[number]) continue;
      seen[number] = true;
      auto& t = *tensors.emplace_back(std::make_unique<Tensor>());
      t.source = &source;
      t.entry = &catalog.entries[number];
      t.stored = stored_weight(source, catalog, scales);
      for (const PlannedScale& scale : source.scales) {
        if (scale.role == ScaleRole::kBlocks || scale.role == ScaleRole::kGroups)
          t.scale = &catalog.entries[static_cast<size_t>(scale.entry)];
      }
    }
  }
  return tensors;
}

}  // namespace

std::vector<Problem> verify(const LoadPlan& plan, const Catalog& catalog, int num_threads,
                            const LoadProgress& progress) {
  uint64_t total = scale_bytes(plan, catalog);
  const LoadedScales none{.data = std::vector<const void*>(catalog.entries.size()),
                          .factors = std::vector<double>(catalog.entries.size(), 1)};
  for (const auto& tensor : list_tensors(plan, catalog, none)) total += tensor->entry->bytes;

  LoadTeam team(num_threads, total, progress);
  LoadedWeights memory;
  LoadedScales scales = none;
  std::vector<Problem> problems;
  try {
    scales = load_scales(plan, catalog, team, memory);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kBadScale) throw;
    problems = error.problems();
  }

  const std::vector<std::unique_ptr<Tensor>> tensors = list_tensors(plan, catalog, scales);
  for (const auto& tensor : tensors) {
    if (tensor->stored.scales == nullptr) tensor->scale = nullptr;  // a problem says that it is bad
    if (tensor->scale != nullptr) tensor->may_overflow = may_overflow(tensor->stored);
  }
  std::vector<Task> tasks;
  size_t drawn_bytes = 0;  // of the largest task
  for (const auto& tensor : tensors) {
    const auto of_row = static_cast<int64_t>(row_bytes(*tensor));
    const int64_t step = std::max<int64_t>(1, kTaskBytes / std::max<int64_t>(1, of_row));
    for (int64_t row = 0; row < tensor->stored.rows; row += step)
      tasks.push_back({tensor.get(), row, std::min(step, tensor->stored.rows - row)});
    if (tensor->entry->drawn)
      drawn_bytes = std::max(drawn_bytes, static_cast<size_t>(std::min(step, tensor->stored.rows) * of_row));
  }
  std::vector<std::vector<std::byte>> scratch(static_cast<size_t>(team.size()),
                                              std::vector<std::byte>(drawn_bytes));
  team.run(tasks.size(), [&](size_t i, int member) {
    return check(tasks[i], catalog, scratch[static_cast<size_t>(member)]);
  });
  for (const auto& file : catalog.files) file->throw_if_damaged();

  for (const auto& tensor : tensors) {
    const auto add = [&](Problem problem) {
      problem.file = catalog.file_of(*catalog.find(problem.tensor));
      problem.todo = "fetch this file again, or convert again";
      problems.push_back(std::move(problem));
    };
    if (tensor->first_bad != kNone) add(bad_value(*tensor));
    if (tensor->first_infinite != kNone) add(infinite_value(*tensor));
    if (tensor->first_zero_scale != kNone) add(zero_scale(*tensor));
  }
  return problems;
}

}  // namespace fulgur
