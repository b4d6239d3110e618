#include "checkpoint/verify.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <limits>
#include <string>
#include <utility>

#include "base/printable.h"
#include "checkpoint/dequantize.h"
#include "checkpoint/find_value.h"
#include "checkpoint/load_scales.h"
#include "checkpoint/load_team.h"
#include "checkpoint/quantize.h"

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

/// Codes of 0 have no bit set but the sign.
bool all_zero(const uint8_t* codes, int64_t count, uint8_t magnitude) {
  return std::none_of(codes, codes + count, [&](uint8_t code) { return (code & magnitude) != 0; });
}

/// How many columns a scale covers.
int64_t scale_width(const Weight& w) { return w.form == WeightForm::kFp8 ? w.block_cols : kNvfp4Group; }

/// The first scale of these rows, as an element of the whole tensor of scales, that is 0, though not all that
/// it covers there is. `rows` are their codes.
int64_t find_zero_scale(const Weight& w, const std::byte* rows, int64_t first_row, int64_t num_rows) {
  const auto* codes = reinterpret_cast<const uint8_t*>(rows);
  const bool fp8 = w.form == WeightForm::kFp8;
  const int64_t width = scale_width(w);
  const int64_t blocks = (w.cols + width - 1) / width;
  for (int64_t r = first_row; r < first_row + num_rows; ++r) {
    const int64_t scale_row = fp8 ? r / w.block_rows : r;
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t count = std::min(width, w.cols - b * width);
      const int64_t at = (r - first_row) * w.cols + b * width;
      const uint8_t* block = fp8 ? codes + at : codes + at / kNvfp4CodesPerByte;
      const bool zero = fp8 ? w.block_scales(r)[b] == 0 : (w.group_scales(r)[b] & 0x7f) == 0;
      if (zero && !(fp8 ? all_zero(block, count, 0x7f) : all_zero(block, count / kNvfp4CodesPerByte, 0x77)))
        return scale_row * blocks + b;
    }
  }
  return kNone;
}

/// Whether a code could become infinite in bf16, which is what kernels and conversions make of it.
bool may_overflow(const Weight& w, const CatalogEntry& scale) {
  double largest = 0;
  if (w.form == WeightForm::kFp8) {
    const auto count = static_cast<int64_t>(scale.bytes / size_bytes(scale.dtype));
    const auto* scales = static_cast<const float*>(w.scales);
    if (count > 0) largest = *std::max_element(scales, scales + count);
    largest *= kMostE4m3;
  } else {
    largest = double{kMostE4m3} * kMostE2m1 * w.global;
  }
  constexpr double kMostBf16 = 0x1.fep127;
  return largest > kMostBf16;
}

/// The first element in these rows that is infinite once its scales are applied.
int64_t find_overflow(const Weight& w, int64_t first_row, int64_t num_rows) {
  std::vector<std::byte> values(static_cast<size_t>(num_rows * w.cols) * sizeof(Bf16));
  convert_rows(w.take_rows(first_row, num_rows), WeightForm::kBf16, values.data());
  return first_infinite_bf16(values.data(), num_rows * w.cols).value_or(kNone);
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
  keep_first(t.first_zero_scale, find_zero_scale(t.stored, rows, task.first_row, task.num_rows));
  if (t.may_overflow && !t.entry->drawn) {
    const int64_t infinite = find_overflow(t.stored, task.first_row, task.num_rows);
    if (infinite != kNone) keep_first(t.first_infinite, first + infinite);
  }
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
  const std::string index = index_text(*t.entry, t.first_infinite, t.stored.cols);
  return {.kind = ErrorKind::kBadValue,
          .tensor = t.entry->name,
          .message = fmt::format("{}{} becomes infinite when it is multiplied by its scale.",
                                 printable(t.entry->name), index),
          .expected = "products of codes and scales that bf16 can hold",
          .found = fmt::format("a product at {} that is larger", index)};
}

Problem zero_scale(const Tensor& t) {
  const std::string index =
      index_text(*t.scale, t.first_zero_scale, t.scale->shape.empty() ? 1 : t.scale->shape.back());
  return {.kind = ErrorKind::kBadScale,
          .tensor = t.scale->name,
          .message = fmt::format("{}{} is 0, but the codes of {} that it scales are not.",
                                 printable(t.scale->name), index, printable(t.entry->name)),
          .expected = "a scale above 0, or codes of 0 alone",
          .found = fmt::format("a scale of 0 at {}", index)};
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
    if (tensor->scale != nullptr) tensor->may_overflow = may_overflow(tensor->stored, *tensor->scale);
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
