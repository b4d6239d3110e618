#include "checkpoint/load_scales.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>
#include <string>
#include <utility>

#include "base/printable.h"

namespace fulgur {
namespace {

constexpr size_t kAlignment = 64;

/// One scale tensor, and what is found in it.
struct Task {
  int entry = 0;
  ScaleRole role{};
  /// Floats, but for kGroups, which stay where they lie; of a tensor that lies in no file, its values as they
  /// are drawn (floats too, or group scales).
  std::byte* memory = nullptr;
  int64_t num_bad = 0;
  int64_t first_bad = 0;
};

float value_at(const CatalogEntry& entry, const std::byte* data, int64_t index) {
  const std::byte* at = data + static_cast<size_t>(index) * size_bytes(entry.dtype);
  const auto code = static_cast<uint8_t>(*at);
  float value = 0;
  Bf16 half;
  uint16_t half_bits = 0;
  switch (entry.dtype) {
    case DType::kF16:
      std::memcpy(&half_bits, at, sizeof half_bits);
      return half_to_float(half_bits);
    case DType::kF32:
      std::memcpy(&value, at, sizeof value);
      return value;
    case DType::kBf16:
      std::memcpy(&half, at, sizeof half);
      return to_float(half);
    case DType::kF8E4M3:
      return e4m3_to_float(code);
    default:  // F8_E8M0, or U8 in its place
      return e8m0_to_float(code);
  }
}

/// Of a whole matrix, or its inputs. One spelling holds the reciprocal of the other: it must have one.
bool scales_matrix(ScaleRole role) {
  return role == ScaleRole::kFactor || role == ScaleRole::kDivisor || role == ScaleRole::kActivations;
}

bool is_bad(float value, ScaleRole role) {
  if (!std::isfinite(value) || value < 0) return true;
  return scales_matrix(role) && (value == 0 || !std::isfinite(1 / value));
}

/// Group scales are an eighth of a checkpoint's bytes: a count that the compiler can vectorise.
int64_t count_bad_groups(const std::byte* data, int64_t count) {
  constexpr std::byte kNan{0x7f};
  constexpr std::byte kMinusZero{0x80};  // and negative values above it
  return std::count_if(data, data + count, [](std::byte code) { return code == kNan || code > kMinusZero; });
}

/// The tensor's values as they are stored.
const std::byte* data_of(const Task& task, const Catalog& catalog) {
  const CatalogEntry& entry = catalog.entries[static_cast<size_t>(task.entry)];
  return entry.drawn ? task.memory : catalog.bytes(entry).data();
}

void load(Task& task, const Catalog& catalog) {
  const CatalogEntry& entry = catalog.entries[static_cast<size_t>(task.entry)];
  if (entry.drawn) catalog.read(entry, 0, {task.memory, entry.bytes});
  const std::byte* data = data_of(task, catalog);
  const auto count = static_cast<int64_t>(entry.bytes / size_bytes(entry.dtype));
  if (task.role == ScaleRole::kGroups && count_bad_groups(data, count) == 0) return;
  for (int64_t i = 0; i < count; ++i) {
    const float value = value_at(entry, data, i);
    if (task.memory != nullptr && data != task.memory) {
      std::memcpy(task.memory + static_cast<size_t>(i) * sizeof value, &value, sizeof value);
    }
    if (is_bad(value, task.role) && task.num_bad++ == 0) task.first_bad = i;
  }
}

/// A NaN's sign is no part of it.
std::string value_text(float value) { return std::isnan(value) ? "nan" : fmt::format("{}", value); }

Problem describe_bad(const Task& task, const Catalog& catalog) {
  const CatalogEntry& entry = catalog.entries[static_cast<size_t>(task.entry)];
  const std::string value = value_text(value_at(entry, data_of(task, catalog), task.first_bad));
  const std::string index = index_text(entry, task.first_bad, entry.shape.empty() ? 1 : entry.shape.back());
  std::string message = fmt::format("{}{} is {}, which no scale can be", printable(entry.name), index, value);
  if (task.num_bad > 1) message += fmt::format("; {} more of its values are bad too", task.num_bad - 1);
  return {.kind = ErrorKind::kBadScale,
          .file = catalog.file_of(entry),
          .tensor = entry.name,
          .message = message + ".",
          .expected = scales_matrix(task.role) ? "a finite number above 0 that has a reciprocal"
                                               : "finite numbers, none below 0",
          .found = fmt::format("{} at {}", value, index),
          .todo = "fetch this file again, or convert again"};
}

std::vector<Task> list_tasks(const LoadPlan& plan, const Catalog& catalog) {
  std::vector<Task> tasks;
  std::vector<bool> seen(catalog.entries.size());  // two parameters may be made from one module
  for (const PlannedParameter& parameter : plan.parameters) {
    for (const PlannedSource& source : parameter.sources) {
      for (const PlannedScale& scale : source.scales) {
        const auto entry = static_cast<size_t>(scale.entry);
        if (!seen[entry]) tasks.push_back({.entry = scale.entry, .role = scale.role});
        seen[entry] = true;
      }
    }
  }
  for (const int entry : plan.activations) {
    if (!seen[static_cast<size_t>(entry)] && !catalog.entries[static_cast<size_t>(entry)].drawn)
      tasks.push_back({.entry = entry, .role = ScaleRole::kActivations});
    seen[static_cast<size_t>(entry)] = true;
  }
  return tasks;
}

/// A place for each tensor that doesn't stay where it lies, in one piece of memory.
void place(std::vector<Task>& tasks, const Catalog& catalog, LoadedWeights& loaded) {
  std::vector<size_t> offsets;
  size_t bytes = 0;
  for (const Task& task : tasks) {
    offsets.push_back(bytes);
    bytes += scale_memory_bytes(task.role, catalog.entries[static_cast<size_t>(task.entry)]);
  }
  offsets.push_back(bytes);
  if (bytes == 0) return;
  loaded.memory.push_back(allocate_weights(bytes));
  loaded.copied_bytes += bytes;
  std::byte* memory = loaded.memory.back().get();
  for (size_t i = 0; i < tasks.size(); ++i) {
    if (offsets[i + 1] > offsets[i]) tasks[i].memory = memory + offsets[i];
  }
}

}  // namespace

LoadedScales load_scales(const LoadPlan& plan, const Catalog& catalog, LoadTeam& team,
                         LoadedWeights& loaded) {
  std::vector<Task> tasks = list_tasks(plan, catalog);
  place(tasks, catalog, loaded);
  team.run(tasks.size(), [&](size_t i, int) {
    load(tasks[i], catalog);
    return catalog.entries[static_cast<size_t>(tasks[i].entry)].bytes;
  });
  for (const auto& file : catalog.files) file->throw_if_damaged();

  LoadedScales scales{.data = std::vector<const void*>(catalog.entries.size()),
                      .factors = std::vector<double>(catalog.entries.size(), 1)};
  std::vector<Problem> problems;
  for (const Task& task : tasks) {
    if (task.num_bad > 0) problems.push_back(describe_bad(task, catalog));
    if (task.role == ScaleRole::kActivations) continue;  // nothing reads it
    const auto entry = static_cast<size_t>(task.entry);
    scales.data[entry] = task.memory;
    if (task.memory == nullptr) {
      scales.data[entry] = data_of(task, catalog);
      loaded.mapped_bytes += catalog.entries[entry].bytes;
    }
    const bool is_factor = task.role == ScaleRole::kFactor;
    if (!is_factor && task.role != ScaleRole::kDivisor) continue;
    float factor = 0;
    std::memcpy(&factor, scales.data[entry], sizeof factor);
    scales.factors[entry] = is_factor ? static_cast<double>(factor) : 1 / static_cast<double>(factor);
  }
  if (!problems.empty()) throw Error(std::move(problems));
  return scales;
}

Weight stored_weight(const PlannedSource& source, const Catalog& catalog, const LoadedScales& scales) {
  const CatalogEntry& entry = catalog.entries[static_cast<size_t>(source.entry)];
  Weight weight{.form = source.form->form,
                .rows = entry.shape.size() == 2 ? entry.shape.front() : 1,
                .cols = entry.shape.back(),
                .data = entry.drawn ? nullptr : catalog.bytes(entry).data(),
                .block_rows = source.block_rows,
                .block_cols = source.block_cols};
  if (weight.form == WeightForm::kNvfp4) weight.cols *= kNvfp4CodesPerByte;
  for (const PlannedScale& scale : source.scales) {
    const auto number = static_cast<size_t>(scale.entry);
    if (scale.role == ScaleRole::kBlocks || scale.role == ScaleRole::kGroups) {
      weight.scales = scales.data[number];
    } else {
      weight.global = scales.factors[number];
    }
  }
  return weight;
}

std::vector<float> read_scale(const PlannedScale& scale, const Catalog& catalog) {
  const CatalogEntry& entry = catalog.entries[static_cast<size_t>(scale.entry)];
  std::vector<float> values;
  Task task{.entry = scale.entry, .role = scale.role};
  if (scale.role != ScaleRole::kGroups) {
    values.resize(entry.bytes / size_bytes(entry.dtype));
    task.memory = reinterpret_cast<std::byte*>(values.data());
  } else if (entry.drawn) {
    return values;  // never bad
  }
  load(task, catalog);
  if (task.num_bad == 0) return values;
  catalog.throw_if_damaged(entry);  // what is gone reads as zeros
  throw Error(describe_bad(task, catalog));
}

uint64_t scale_memory_bytes(ScaleRole role, const CatalogEntry& entry) {
  if (role == ScaleRole::kActivations || (role == ScaleRole::kGroups && !entry.drawn)) return 0;
  const uint64_t bytes =
      role == ScaleRole::kGroups ? entry.bytes : entry.bytes / size_bytes(entry.dtype) * sizeof(float);
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

uint64_t scale_bytes(const LoadPlan& plan, const Catalog& catalog) {
  uint64_t bytes = 0;
  for (const Task& task : list_tasks(plan, catalog))
    bytes += catalog.entries[static_cast<size_t>(task.entry)].bytes;
  return bytes;
}

WeightMemory allocate_weights(size_t bytes) {
  return {static_cast<std::byte*>(::operator new[](bytes, std::align_val_t(kAlignment))),
          [](std::byte* data) { ::operator delete[](data, std::align_val_t(kAlignment)); }};
}

}  // namespace fulgur
