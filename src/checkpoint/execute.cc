#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "base/thread_team.h"
#include "checkpoint/convert.h"
#include "checkpoint/load_plan.h"

namespace fulgur {
namespace {

constexpr size_t kAlignment = 64;  // a cache line, and the widest vector
constexpr int64_t kTaskElements =
    1 << 21;  // 4 MiB of bf16: seeks and hand-outs vanish, the progress bar still moves

using Memory = std::unique_ptr<std::byte[], void (*)(std::byte*)>;

Memory allocate(size_t bytes) {
  return {static_cast<std::byte*>(::operator new[](bytes, std::align_val_t(kAlignment))),
          [](std::byte* data) { ::operator delete[](data, std::align_val_t(kAlignment)); }};
}

/// One piece of work: a run of a source's elements, or one head of it.
struct Task {
  const Parameter* parameter = nullptr;
  const CatalogEntry* entry = nullptr;
  DType held{};
  std::byte* to = nullptr;  // where the source's first element, or the first head, goes
  int64_t first = 0;        // element, or head
  int64_t count = 0;        // of elements; unused for heads
};

int64_t num_elements(const CatalogEntry& entry) {
  int64_t count = 1;
  for (const int64_t dim : entry.shape) count *= dim;
  return count;
}

[[noreturn]] void misdeclared(const Parameter& parameter) {
  throw std::logic_error(
      fmt::format("{} is declared with rows and columns that its parts don't fill", parameter.name));
}

template <typename T>
void transpose(const std::byte* from, int64_t rows, int64_t cols, std::byte* to) {
  constexpr int64_t kBlock = 32;  // columns at once: their rows of the result stay in the first-level cache
  const auto* source = reinterpret_cast<const T*>(from);
  auto* result = reinterpret_cast<T*>(to);
  for (int64_t block = 0; block < cols; block += kBlock) {
    const int64_t end = std::min(cols, block + kBlock);
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t col = block; col < end; ++col) result[col * rows + row] = source[row * cols + col];
    }
  }
}

class Executor {
 public:
  Executor(const Catalog& catalog, const LoadProgress& progress) : catalog_(catalog), progress_(progress) {}

  LoadedWeights execute(const LoadPlan& plan, std::span<const Parameter> parameters, int num_threads) {
    if (!plan.problems.empty()) throw Error(plan.problems);
    if (plan.parameters.size() != parameters.size()) throw std::logic_error("a plan of other parameters");
    loaded_.files = catalog_.files;
    for (size_t i = 0; i < parameters.size(); ++i) place(plan.parameters[i], parameters[i]);
    run_tasks(num_threads);
    for (const auto& file : loaded_.files) file->throw_if_damaged();
    return std::move(loaded_);
  }

 private:
  void place(const PlannedParameter& planned, const Parameter& parameter) {
    Weight weight{.form = planned.held, .rows = parameter.rows, .cols = parameter.cols};
    const CatalogEntry& first = source_entry(planned.sources.front());
    for (const PlannedSource& source : planned.sources) {
      if (!can_convert(source_entry(source).dtype, stored_dtype(planned.held))) {
        throw std::logic_error(fmt::format("{} can't be held as {}", parameter.name, name(planned.held)));
      }
    }
    const uint64_t bytes =
        static_cast<uint64_t>(parameter.rows * parameter.cols) * size_bytes(stored_dtype(planned.held));
    if (planned.sources.front().steps.front() == StepKind::kMap) {
      if (bytes != first.bytes) misdeclared(parameter);
      weight.data = catalog_.bytes(first).data();
      loaded_.mapped_bytes += bytes;
      total_bytes_ += bytes;
      done_bytes_ += bytes;
    } else {
      loaded_.memory.push_back(allocate(bytes));
      loaded_.copied_bytes += bytes;
      std::byte* to = loaded_.memory.back().get();
      weight.data = to;
      if (parameter.arrangement == Arrangement::kRows) {
        add_runs(planned, parameter, to);
      } else {
        add_heads(planned, parameter, to);
      }
    }
    loaded_.weights.push_back(weight);
  }

  void add_runs(const PlannedParameter& planned, const Parameter& parameter, std::byte* to) {
    int64_t left = parameter.rows * parameter.cols;
    for (const PlannedSource& source : planned.sources) {
      const CatalogEntry& entry = source_entry(source);
      const int64_t elements = num_elements(entry);
      if (elements > left) misdeclared(parameter);
      for (int64_t first = 0; first < elements; first += kTaskElements) {
        tasks_.push_back({&parameter, &entry, stored_dtype(planned.held), to, first,
                          std::min(kTaskElements, elements - first)});
      }
      to += static_cast<size_t>(elements) * size_bytes(stored_dtype(planned.held));
      left -= elements;
      total_bytes_ += entry.bytes;
    }
    if (left != 0) misdeclared(parameter);
  }

  void add_heads(const PlannedParameter& planned, const Parameter& parameter, std::byte* to) {
    const CatalogEntry& entry = source_entry(planned.sources.front());
    const bool transposed = parameter.arrangement == Arrangement::kUkTransposed;
    const int64_t rows = parameter.num_heads * (parameter.nope + parameter.value);
    const int64_t head_elements = num_elements(entry) / parameter.num_heads;
    const int64_t latent = head_elements / (parameter.nope + parameter.value);
    const bool fits =
        transposed ? parameter.rows == parameter.num_heads * latent && parameter.cols == parameter.nope
                   : parameter.rows == parameter.num_heads * parameter.value && parameter.cols == latent;
    if (!fits || rows * latent != num_elements(entry)) misdeclared(parameter);
    scratch_bytes_ =
        std::max(scratch_bytes_, static_cast<size_t>(head_elements) * size_bytes(stored_dtype(planned.held)));
    for (int64_t head = 0; head < parameter.num_heads; ++head) {
      tasks_.push_back({&parameter, &entry, stored_dtype(planned.held), to, head, 0});
    }
    total_bytes_ += entry.bytes;
  }

  void run_tasks(int num_threads) {
    if (progress_) progress_(done_bytes_, total_bytes_);
    ThreadTeam team(std::max(1, num_threads));
    std::vector<std::byte> scratch(scratch_bytes_ * static_cast<size_t>(team.size()));
    std::atomic<size_t> next{0};
    team.run([&](int member) {  // must not throw: everything that could is done
      for (size_t i = next++; i < tasks_.size(); i = next++) {
        done_bytes_ += perform(tasks_[i], scratch.data() + static_cast<size_t>(member) * scratch_bytes_);
        if (member == 0 && progress_) progress_(done_bytes_, total_bytes_);
      }
    });
    if (progress_) progress_(total_bytes_, total_bytes_);
  }

  /// The bytes it read.
  uint64_t perform(const Task& task, std::byte* scratch) const {
    const Parameter& parameter = *task.parameter;
    const CatalogEntry& entry = *task.entry;
    const std::byte* from = catalog_.bytes(entry).data();
    const size_t stored_width = size_bytes(entry.dtype);
    const size_t held_width = size_bytes(task.held);
    if (parameter.arrangement == Arrangement::kRows) {
      convert(entry.dtype, from + static_cast<size_t>(task.first) * stored_width, task.held,
              task.to + static_cast<size_t>(task.first) * held_width, task.count);
      return static_cast<uint64_t>(task.count) * stored_width;
    }
    const int64_t head_rows = parameter.nope + parameter.value;
    const int64_t latent = entry.shape.back();
    const std::byte* head = from + static_cast<size_t>(task.first * head_rows * latent) * stored_width;
    std::byte* to =
        task.to + static_cast<size_t>(task.first * (parameter.rows / parameter.num_heads) * parameter.cols) *
                      held_width;
    if (parameter.arrangement == Arrangement::kUv) {
      convert(entry.dtype, head + static_cast<size_t>(parameter.nope * latent) * stored_width, task.held, to,
              parameter.value * latent);
    } else {
      convert(entry.dtype, head, task.held, scratch, parameter.nope * latent);
      if (held_width == sizeof(uint16_t)) {
        transpose<uint16_t>(scratch, parameter.nope, latent, to);
      } else {
        transpose<uint32_t>(scratch, parameter.nope, latent, to);
      }
    }
    return static_cast<uint64_t>(head_rows * latent) * stored_width;
  }

  [[nodiscard]] const CatalogEntry& source_entry(const PlannedSource& source) const {
    return catalog_.entries[static_cast<size_t>(source.entry)];
  }

  const Catalog& catalog_;
  const LoadProgress& progress_;
  LoadedWeights loaded_;
  std::vector<Task> tasks_;
  std::atomic<uint64_t> done_bytes_{0};
  uint64_t total_bytes_ = 0;
  size_t scratch_bytes_ = 0;  // of a thread: one head, converted
};

}  // namespace

LoadedWeights execute(const LoadPlan& plan, std::span<const Parameter> parameters, const Catalog& catalog,
                      int num_threads, const LoadProgress& progress) {
  return Executor(catalog, progress).execute(plan, parameters, num_threads);
}

std::string_view name(StepKind kind) {
  switch (kind) {
    case StepKind::kMap:
      return "map";
    case StepKind::kCopy:
      return "copy";
    case StepKind::kConvert:
      return "convert";
    case StepKind::kConcatRows:
      return "concat rows";
    case StepKind::kTranspose:
      return "transpose per head";
    case StepKind::kSplitHeads:
      return "split heads";
  }
  return {};
}

}  // namespace fulgur
