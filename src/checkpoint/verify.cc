#include "checkpoint/verify.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <limits>
#include <string>
#include <utility>

#include "base/printable.h"
#include "checkpoint/load_scales.h"
#include "checkpoint/load_team.h"

namespace fulgur {
namespace {

constexpr int64_t kTaskBytes = 1 << 22;
constexpr int64_t kNone = std::numeric_limits<int64_t>::max();

/// A tensor of weights, and the first elements of it that are bad.
struct Tensor {
  const PlannedSource* source = nullptr;
  const CatalogEntry* entry = nullptr;
  const void* scales = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;  // elements; two to a byte in NVFP4
  std::atomic<int64_t> first_bad{kNone};
  std::atomic<int64_t> first_unscaled{kNone};
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

/// The first of `count` elements that is NaN or infinite, or kNone; `exponent` masks the bits that are then
/// all set. Elements aren't aligned.
template <typename Bits>
int64_t find_not_finite(const std::byte* data, int64_t count, Bits exponent) {
  constexpr int64_t kRun = 4096;  // a whole run is looked at without a branch
  for (int64_t run = 0; run < count; run += kRun) {
    const int64_t end = std::min(count, run + kRun);
    const auto at = [&](int64_t i) {
      Bits bits;
      std::memcpy(&bits, data + static_cast<size_t>(i) * sizeof bits, sizeof bits);
      return (bits & exponent) == exponent;
    };
    int64_t bad = 0;
    for (int64_t i = run; i < end; ++i) bad += at(i) ? 1 : 0;
    if (bad == 0) continue;
    for (int64_t i = run;; ++i) {
      if (at(i)) return i;
    }
  }
  return kNone;
}

int64_t find_bad(DType dtype, const std::byte* data, int64_t count) {
  switch (dtype) {
    case DType::kBf16:
      return find_not_finite<uint16_t>(data, count, 0x7f80);
    case DType::kF16:
      return find_not_finite<uint16_t>(data, count, 0x7c00);
    case DType::kF32:
      return find_not_finite<uint32_t>(data, count, 0x7f800000);
    case DType::kF8E4M3:
      return find_not_finite<uint8_t>(data, count, 0x7f);
    default:
      return kNone;  // every FP4 code is a number
  }
}

/// Codes of 0 have no bit set but the sign.
bool all_zero(const uint8_t* codes, int64_t count, uint8_t magnitude) {
  return std::none_of(codes, codes + count, [&](uint8_t code) { return (code & magnitude) != 0; });
}

/// The first element in these rows, which begin at `rows`, whose block has a scale of 0, though not all of it
/// is 0.
int64_t find_unscaled(const Tensor& t, const std::byte* rows, int64_t first_row, int64_t num_rows) {
  const auto* codes = reinterpret_cast<const uint8_t*>(rows);
  const bool fp8 = t.source->form->form == WeightForm::kFp8;
  const int64_t width = fp8 ? t.source->block_cols : kNvfp4Group;
  const int64_t blocks = (t.cols + width - 1) / width;
  for (int64_t r = first_row; r < first_row + num_rows; ++r) {
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t begin = b * width;
      const int64_t count = std::min(width, t.cols - begin);
      const int64_t at = (r - first_row) * t.cols + begin;
      const uint8_t* block = fp8 ? codes + at : codes + at / 2;
      const bool zero = fp8 ? static_cast<const float*>(t.scales)[r / t.source->block_rows * blocks + b] == 0
                            : (static_cast<const uint8_t*>(t.scales)[r * blocks + b] & 0x7f) == 0;
      if (zero && !(fp8 ? all_zero(block, count, 0x7f) : all_zero(block, count / 2, 0x77)))
        return r * t.cols + begin;
    }
  }
  return kNone;
}

uint64_t row_bytes(const Tensor& t) { return t.entry->bytes / static_cast<uint64_t>(t.rows); }

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
  const int64_t bad = find_bad(t.entry->dtype, rows, task.num_rows * t.cols);
  if (bad != kNone) keep_first(t.first_bad, task.first_row * t.cols + bad);
  if (t.scales != nullptr) {
    const int64_t unscaled = find_unscaled(t, rows, task.first_row, task.num_rows);
    if (unscaled != kNone) keep_first(t.first_unscaled, unscaled);
  }
  return bytes;
}

std::string place(const Tensor& t, int64_t index) {
  return t.entry->shape.size() == 1 ? fmt::format("[{}]", index)
                                    : fmt::format("[{}, {}]", index / t.cols, index % t.cols);
}

Problem bad_value(const Tensor& t) {
  const std::string index = place(t, t.first_bad);
  return {.kind = ErrorKind::kBadValue,
          .message = fmt::format("{}{} is NaN or infinite.", printable(t.entry->name), index),
          .expected = "finite numbers",
          .found = fmt::format("a value at {} that isn't", index)};
}

Problem bad_scale(const Tensor& t) {
  const std::string index = place(t, t.first_unscaled);
  return {
      .kind = ErrorKind::kBadScale,
      .message = fmt::format("The scale of the block of {} that begins at {} is 0, but its codes are not.",
                             printable(t.entry->name), index),
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
      t.rows = t.entry->shape.size() == 2 ? t.entry->shape.front() : 1;
      t.cols = t.entry->shape.back() * (source.form->form == WeightForm::kNvfp4 ? kNvfp4CodesPerByte : 1);
      for (const PlannedScale& scale : source.scales) {
        if (scale.role == ScaleRole::kBlocks || scale.role == ScaleRole::kGroups)
          t.scales = scales.data[static_cast<size_t>(scale.entry)];
      }
    }
  }
  return tensors;
}

}  // namespace

std::vector<Problem> verify(const LoadPlan& plan, const Catalog& catalog, int num_threads,
                            const LoadProgress& progress) {
  uint64_t total = scale_bytes(plan, catalog);
  const LoadedScales none{.data = std::vector<const void*>(catalog.entries.size()), .factors = {}};
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
  std::vector<Task> tasks;
  size_t drawn_bytes = 0;  // of the largest task
  for (const auto& tensor : tensors) {
    const auto of_row = static_cast<int64_t>(row_bytes(*tensor));
    const int64_t step = std::max<int64_t>(1, kTaskBytes / std::max<int64_t>(1, of_row));
    for (int64_t row = 0; row < tensor->rows; row += step)
      tasks.push_back({tensor.get(), row, std::min(step, tensor->rows - row)});
    if (tensor->entry->drawn)
      drawn_bytes = std::max(drawn_bytes, static_cast<size_t>(std::min(step, tensor->rows) * of_row));
  }
  std::vector<std::vector<std::byte>> scratch(static_cast<size_t>(team.size()),
                                              std::vector<std::byte>(drawn_bytes));
  team.run(tasks.size(), [&](size_t i, int member) {
    return check(tasks[i], catalog, scratch[static_cast<size_t>(member)]);
  });
  for (const auto& file : catalog.files) file->throw_if_damaged();

  for (const auto& tensor : tensors) {
    const auto add = [&](Problem problem) {
      problem.file = catalog.file_of(*tensor->entry);
      problem.tensor = tensor->entry->name;
      problem.todo = "fetch this file again, or convert again";
      problems.push_back(std::move(problem));
    };
    if (tensor->first_bad != kNone) add(bad_value(*tensor));
    if (tensor->first_unscaled != kNone) add(bad_scale(*tensor));
  }
  return problems;
}

}  // namespace fulgur
