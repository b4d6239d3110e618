#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/dequantize.h"
#include "checkpoint/load_plan.h"
#include "checkpoint/load_scales.h"
#include "checkpoint/load_team.h"
#include "checkpoint/mapped_pages.h"

namespace fulgur {
namespace {

constexpr int64_t kTaskElements =
    1 << 21;  // 4 MiB of bf16: seeks and hand-outs vanish, the progress bar still moves

/// One piece of work: rows of a source on their way into memory.
struct Task {
  const Parameter* parameter = nullptr;
  Weight from;                          // those rows as stored
  const CatalogEntry* drawn = nullptr;  // holds them, from byte `begin` on, where they have no memory yet
  uint64_t begin = 0;
  WeightForm held{};
  std::byte* to = nullptr;
  uint64_t bytes = 0;  // that the progress counts
};

size_t stored_bytes(const Weight& rows) {
  return static_cast<size_t>(rows.rows * row_bytes(rows.form, rows.cols));
}

[[noreturn]] void misdeclared(const Parameter& parameter) {
  throw std::logic_error(
      fmt::format("{} is declared with rows and columns that its parts don't fill", parameter.name));
}

/// Quantized rows stay where they lie; all that is placed in memory is plain.
bool can_place(WeightForm held, WeightForm stored) {
  return held == WeightForm::kBf16 || held == WeightForm::kF32 || (is_plain(held) && held == stored);
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

/// Whether a task's rows are held as they are stored, so that they can be drawn where they go.
bool held_as_stored(const Task& task) {
  return !is_plain(task.held) ||
         (task.held == task.from.form && task.parameter->arrangement != Arrangement::kUkTransposed);
}

/// What a thread needs beside sources and results.
struct Scratch {
  std::vector<std::byte> drawn;  // a task's rows as they are stored
  std::vector<std::byte> uk;     // one head's UK, converted
};

void place_rows(const Task& task, const Weight& from, Scratch& scratch) {
  if (task.parameter->arrangement != Arrangement::kUkTransposed) {
    convert_rows(from, task.held, task.to);
    return;
  }
  convert_rows(from, task.held, scratch.uk.data());
  if (task.held == WeightForm::kBf16) {
    transpose<uint16_t>(scratch.uk.data(), from.rows, from.cols, task.to);
  } else {
    transpose<uint32_t>(scratch.uk.data(), from.rows, from.cols, task.to);
  }
}

void perform(const Task& task, const Catalog& catalog, Scratch& scratch) {
  if (task.drawn == nullptr) return place_rows(task, task.from, scratch);
  const auto bytes = stored_bytes(task.from);
  if (held_as_stored(task)) {
    catalog.read(*task.drawn, task.begin, {task.to, bytes});
    return;
  }
  Weight from = task.from;
  from.data = scratch.drawn.data();
  catalog.read(*task.drawn, task.begin, std::span(scratch.drawn).first(bytes));
  place_rows(task, from, scratch);
}

class Executor {
 public:
  Executor(const LoadPlan& plan, std::span<const Parameter> parameters, const Catalog& catalog,
           int num_threads, const LoadProgress& progress)
      : plan_(plan),
        parameters_(parameters),
        catalog_(catalog),
        mapped_(catalog),
        team_(num_threads, total_bytes(plan, catalog), progress) {}

  LoadedWeights execute() {
    loaded_.files = catalog_.files;
    scales_ = load_scales(plan_, catalog_, team_, loaded_);
    for (size_t i = 0; i < parameters_.size(); ++i) place(plan_.parameters[i], parameters_[i]);
    mapped_.read(team_);
    std::vector<Scratch> scratch(
        static_cast<size_t>(team_.size()),
        {.drawn = std::vector<std::byte>(drawn_bytes_), .uk = std::vector<std::byte>(uk_bytes_)});
    team_.run(tasks_.size(), [&](size_t i, int member) {
      perform(tasks_[i], catalog_, scratch[static_cast<size_t>(member)]);
      return tasks_[i].bytes;
    });
    loaded_.throw_if_changed();
    return std::move(loaded_);
  }

 private:
  static uint64_t total_bytes(const LoadPlan& plan, const Catalog& catalog) {
    uint64_t bytes = scale_bytes(plan, catalog);
    for (const PlannedParameter& parameter : plan.parameters) {
      for (const PlannedSource& source : parameter.sources)
        bytes += catalog.entries[static_cast<size_t>(source.entry)].bytes;
    }
    return bytes;
  }

  [[nodiscard]] const CatalogEntry& entry_of(const PlannedSource& source) const {
    return catalog_.entries[static_cast<size_t>(source.entry)];
  }

  [[nodiscard]] Weight stored(const PlannedSource& source) const {
    return stored_weight(source, catalog_, scales_);
  }

  void place(const PlannedParameter& planned, const Parameter& parameter) {
    const PlannedSource& first = planned.sources.front();
    if (first.steps.front() == StepKind::kMap) {
      loaded_.weights.push_back(stored(first));
      const Weight& weight = loaded_.weights.back();
      if (weight.rows != parameter.rows || weight.cols != parameter.cols) misdeclared(parameter);
      loaded_.mapped_bytes += entry_of(first).bytes;
      mapped_.add(entry_of(first));
      return;
    }
    const bool as_drawn = first.steps.front() == StepKind::kDraw;
    for (const PlannedSource& source : planned.sources) {
      if (!as_drawn && !can_place(planned.held, source.form->form)) {
        throw std::logic_error(fmt::format("{} can't be held as {}", parameter.name, name(planned.held)));
      }
    }
    const auto bytes = static_cast<size_t>(parameter.rows * row_bytes(planned.held, parameter.cols));
    loaded_.memory.push_back(allocate_weights(bytes));
    loaded_.copied_bytes += bytes;
    std::byte* to = loaded_.memory.back().get();
    loaded_.weights.push_back(
        as_drawn ? stored(first)
                 : Weight{.form = planned.held, .rows = parameter.rows, .cols = parameter.cols});
    loaded_.weights.back().data = to;
    if (parameter.arrangement == Arrangement::kRows) {
      add_runs(planned, parameter, to);
    } else {
      add_heads(planned, parameter, to);
    }
  }

  /// A task for the rows of an entry from `row` on.
  void add(Task task, const CatalogEntry& entry, int64_t row) {
    if (entry.drawn) {
      task.drawn = &entry;
      task.begin = static_cast<uint64_t>(row * row_bytes(task.from.form, task.from.cols));
      if (!held_as_stored(task)) drawn_bytes_ = std::max(drawn_bytes_, stored_bytes(task.from));
    }
    tasks_.push_back(task);
  }

  /// Rows of `from` become task after task of at most so many rows.
  void add_runs(const PlannedParameter& planned, const Parameter& parameter, std::byte* to) {
    int64_t left = parameter.rows;
    for (const PlannedSource& source : planned.sources) {
      const Weight from = stored(source);
      if (from.rows > left || from.cols != parameter.cols) misdeclared(parameter);
      left -= from.rows;
      // Whole rows of blocks, where there are blocks: their codes are decoded once.
      const int64_t grain = from.form == WeightForm::kFp8 ? kFp8Block : 1;
      const int64_t rows = std::max<int64_t>(kTaskElements / from.cols / grain, 1) * grain;
      for (int64_t row = 0; row < from.rows; row += rows) {
        const Weight part = from.take_rows(row, std::min(rows, from.rows - row));
        add({.parameter = &parameter,
             .from = part,
             .held = planned.held,
             .to = to,
             .bytes = stored_bytes(part)},
            entry_of(source), row);
        to += part.rows * row_bytes(planned.held, part.cols);
      }
    }
    if (left != 0) misdeclared(parameter);
  }

  /// A task for each head's rows of kv_b_proj.
  void add_heads(const PlannedParameter& planned, const Parameter& parameter, std::byte* to) {
    const Weight from = stored(planned.sources.front());
    const bool uk = parameter.arrangement == Arrangement::kUkTransposed;
    const int64_t head_rows = parameter.nope + parameter.value;
    const int64_t rows = uk ? parameter.nope : parameter.value;
    const bool fits = uk ? parameter.rows == parameter.num_heads * from.cols && parameter.cols == rows
                         : parameter.rows == parameter.num_heads * rows && parameter.cols == from.cols;
    if (!fits || from.rows != parameter.num_heads * head_rows) misdeclared(parameter);
    const auto held_bytes = static_cast<size_t>(rows * row_bytes(planned.held, from.cols));
    if (uk) uk_bytes_ = std::max(uk_bytes_, held_bytes);
    for (int64_t head = 0; head < parameter.num_heads; ++head) {
      const int64_t row = head * head_rows + (uk ? 0 : parameter.nope);
      add({.parameter = &parameter,
           .from = from.take_rows(row, rows),
           .held = planned.held,
           .to = to,
           .bytes = static_cast<uint64_t>(head_rows * row_bytes(from.form, from.cols))},
          entry_of(planned.sources.front()), row);
      to += held_bytes;
    }
  }

  const LoadPlan& plan_;
  std::span<const Parameter> parameters_;
  const Catalog& catalog_;
  MappedPages mapped_;
  LoadTeam team_;
  LoadedScales scales_;
  LoadedWeights loaded_;
  std::vector<Task> tasks_;
  size_t drawn_bytes_ = 0;  // of a thread's scratch
  size_t uk_bytes_ = 0;
};

}  // namespace

void LoadedWeights::throw_if_damaged() const {
  for (const auto& file : files) {
    if (file->damaged()) file->throw_if_damaged();  // alone it would ask the system about each file
  }
}

void LoadedWeights::throw_if_changed() const {
  for (const auto& file : files) file->throw_if_damaged();
}

LoadedWeights execute(const LoadPlan& plan, std::span<const Parameter> parameters, const Catalog& catalog,
                      int num_threads, const LoadProgress& progress) {
  if (!plan.problems.empty()) throw Error(plan.problems);
  if (plan.parameters.size() != parameters.size()) throw std::logic_error("a plan of other parameters");
  return Executor(plan, parameters, catalog, num_threads, progress).execute();
}

}  // namespace fulgur
