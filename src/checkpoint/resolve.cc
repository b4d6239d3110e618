#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "checkpoint/json_events.h"
#include "checkpoint/load_plan.h"
#include "checkpoint/safetensors_header.h"
#include "checkpoint/storage_form.h"

namespace fulgur {
namespace {

constexpr std::string_view kPlainForms = "BF16, F16 or F32";

/// "a.b.weight" -> {"a.b", "weight"}
std::pair<std::string_view, std::string_view> split_last(std::string_view name) {
  const size_t dot = name.rfind('.');
  if (dot == std::string_view::npos) return {{}, name};
  return {name.substr(0, dot), name.substr(dot + 1)};
}

std::string shape_with_fields(const std::vector<Dim>& shape) {
  std::vector<std::string> dims;
  for (const Dim& dim : shape) {
    dims.push_back(dim.field.empty() ? std::to_string(dim.size)
                                     : fmt::format("{} ({})", dim.size, dim.field));
  }
  return fmt::format("[{}]", fmt::join(dims, ", "));
}

/// "a", "a and b", "a, b and c"
std::string enumerate(const std::vector<std::string>& items) {
  std::string text;
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) text += i + 1 == items.size() ? " and " : ", ";
    text += items[i];
  }
  return text;
}

/// Whether every value of `stored` has an exact twin in `held`.
bool holds_exactly(WeightForm held, WeightForm stored) {
  return held == stored ||
         (held == WeightForm::kF32 && (stored == WeightForm::kBf16 || stored == WeightForm::kF16));
}

/// The rule of Parameter::held_as.
WeightForm choose_held(const std::vector<WeightForm>& held_as, const std::vector<WeightForm>& stored) {
  const bool all_alike =
      std::all_of(stored.begin(), stored.end(), [&](WeightForm form) { return form == stored.front(); });
  if (all_alike && std::find(held_as.begin(), held_as.end(), stored.front()) != held_as.end())
    return stored.front();
  for (const WeightForm held : held_as) {
    if (std::all_of(stored.begin(), stored.end(), [&](WeightForm form) { return holds_exactly(held, form); }))
      return held;
  }
  const auto first =
      std::find_if(held_as.begin(), held_as.end(), [](WeightForm held) { return held != WeightForm::kF16; });
  return first != held_as.end() ? *first : held_as.front();
}

class Resolver {
 public:
  explicit Resolver(const Catalog& catalog) : catalog_(catalog) {
    by_name_.reserve(catalog.entries.size());
    for (size_t i = 0; i < catalog.entries.size(); ++i)
      by_name_.emplace(catalog.entries[i].name, static_cast<int>(i));
    state_.resize(catalog.entries.size());
  }

  LoadPlan resolve(std::span<const Parameter> parameters, std::span<const IgnoreRule> ignore) {
    for (const Parameter& parameter : parameters) plan_.parameters.push_back(plan(parameter));
    for (size_t i = 0; i < state_.size(); ++i) {
      if (!state_[i].consumed) settle_leftover(static_cast<int>(i), ignore);
    }
    refuse_quantized();
    return std::move(plan_);
  }

 private:
  /// What has become of an entry so far.
  struct State {
    bool consumed = false;
    bool faulty = false;     // a problem names it: don't repeat it for the other parameter made from it
    bool quantized = false;  // counted by refuse_quantized()
  };
  /// A spelling and the entries of its parts; -1 for a part that isn't there.
  struct Spelling {
    const std::vector<Part>* parts = nullptr;
    std::vector<int> entries;

    [[nodiscard]] bool touched() const {
      return std::any_of(entries.begin(), entries.end(), [](int entry) { return entry >= 0; });
    }
    [[nodiscard]] bool complete() const {
      return std::all_of(entries.begin(), entries.end(), [](int entry) { return entry >= 0; });
    }
  };

  [[nodiscard]] const CatalogEntry& entry(int number) const {
    return catalog_.entries[static_cast<size_t>(number)];
  }
  State& state(int number) { return state_[static_cast<size_t>(number)]; }
  [[nodiscard]] std::string file_of(int number) const {
    return catalog_.files[static_cast<size_t>(entry(number).file)]->file_name();
  }
  [[nodiscard]] int find(std::string_view name) const {
    const auto at = by_name_.find(name);
    return at == by_name_.end() ? -1 : at->second;
  }
  [[nodiscard]] std::string described(int number) const {
    const CatalogEntry& e = entry(number);
    return fmt::format("{} ({} {})", printable(e.name), printable(e.dtype_name), shape_text(e.shape));
  }

  /// The entry that stores a part, by any of the names that a storage form gives it.
  int find_part(const Part& part) {
    int found = find(part.tensor);
    const auto [module, last] = split_last(part.tensor);
    if (last != "weight") return found;
    for (const StorageForm& form : kStorageForms) {
      if (form.weight == last) continue;
      const int other = find(fmt::format("{}.{}", module, form.weight));
      if (other >= 0 && found >= 0) conflict({found, other});
      if (found < 0) found = other;
    }
    return found;
  }

  PlannedParameter plan(const Parameter& parameter) {
    std::vector<Spelling> touched;
    std::vector<int> present;
    for (const std::vector<Part>& parts : parameter.spellings) {
      Spelling spelling{.parts = &parts};
      for (const Part& part : parts) {
        spelling.entries.push_back(find_part(part));
        if (spelling.entries.back() >= 0) {
          present.push_back(spelling.entries.back());
          state(present.back()).consumed = true;
        }
      }
      if (spelling.touched()) touched.push_back(std::move(spelling));
    }
    std::vector<int> rivals;
    for (const std::string& rival : parameter.rivals) {
      if (const int number = find(rival); number >= 0) {
        rivals.push_back(number);
        state(number).consumed = true;
      }
    }
    if (touched.size() > 1 || (!touched.empty() && !rivals.empty())) {
      present.insert(present.end(), rivals.begin(), rivals.end());
      conflict(present);
      return {};
    }
    if (touched.empty() || !touched.front().complete()) {
      missing(parameter, touched.empty() ? nullptr : &touched.front(), rivals);
      return {};
    }
    return usable(parameter, touched.front()) ? planned(parameter, touched.front()) : PlannedParameter{};
  }

  void conflict(const std::vector<int>& entries) {
    std::vector<std::string> names;
    for (const int number : entries) {
      names.push_back(printable(entry(number).name));
      state(number).consumed = true;
    }
    if (std::all_of(entries.begin(), entries.end(), [&](int number) { return state(number).faulty; })) return;
    for (const int number : entries) state(number).faulty = true;
    plan_.problems.push_back(
        {.kind = ErrorKind::kConflictingTensors,
         .file = file_of(entries.back()),
         .tensor = entry(entries.front()).name,
         .message =
             fmt::format("{} exclude one another, but the checkpoint holds them all.", enumerate(names)),
         .todo = "keep one form of this weight and convert again"});
  }

  /// `half` is the spelling that is there in part, if one is.
  void missing(const Parameter& parameter, const Spelling* half, const std::vector<int>& rivals) {
    std::vector<std::string> alternatives;
    std::vector<std::string> absent;
    std::vector<std::string> found;
    for (const std::vector<Part>& parts : parameter.spellings) {
      if (half != nullptr && half->parts != &parts) continue;
      std::vector<std::string> wanted;
      for (size_t i = 0; i < parts.size(); ++i) {
        if (half != nullptr && half->entries[i] >= 0) {
          found.push_back(described(half->entries[i]));
          continue;
        }
        wanted.push_back(fmt::format("{} {}", parts[i].tensor, shape_with_fields(parts[i].shape)));
        absent.push_back(parts[i].tensor);
      }
      alternatives.push_back(enumerate(wanted));
    }
    for (const int rival : rivals) {
      found.push_back(fmt::format("{}, which takes its place in another kind of model", described(rival)));
    }
    if (!missing_.insert(absent.front()).second) return;  // said for the other parameter made from it
    std::string message = fmt::format("{} is missing: no file holds it", absent.front());
    if (half != nullptr) message += fmt::format(", though its other half is there: {}", enumerate(found));
    plan_.problems.push_back({.kind = ErrorKind::kMissingTensor,
                              .file = catalog_.source,
                              .tensor = absent.front(),
                              .message = std::move(message) + ".",
                              .expected = fmt::format("{}", fmt::join(alternatives, ", or ")),
                              .found = enumerate(found),
                              .todo = rivals.empty() ? "fetch the shard that holds it, or convert again"
                                                     : "check that config.json belongs to this checkpoint"});
  }

  /// Whether every part is stored in a form and shape that the parameter can be made from; says what isn't.
  bool usable(const Parameter& parameter, const Spelling& spelling) {
    bool all_usable = true;
    for (size_t i = 0; i < spelling.entries.size(); ++i) {
      const int number = spelling.entries[i];
      const Part& part = (*spelling.parts)[i];
      const bool good = dtype_fits(parameter, part, number) && shape_fits(part, number);
      all_usable = all_usable && good;
    }
    return all_usable;
  }

  bool dtype_fits(const Parameter& parameter, const Part& part, int number) {
    const CatalogEntry& e = entry(number);
    const std::string_view component = e.name == part.tensor ? "weight" : split_last(e.name).second;
    const auto form =
        std::find_if(kStorageForms.begin(), kStorageForms.end(), [&](const StorageForm& candidate) {
          return e.dtype_known && candidate.dtype == e.dtype && candidate.weight == component;
        });
    const bool known = form != kStorageForms.end();
    if (known && !form->quantized) return true;
    if (known && parameter.quantizable) {
      state(number).quantized = true;
      return false;
    }
    complain(number, {.kind = ErrorKind::kUnknownDType,
                      .message = fmt::format(
                          "{} is stored as {}, {}.", printable(e.name), printable(e.dtype_name),
                          e.dtype_known ? "which can't stand here" : "a type that this build doesn't know"),
                      .expected = std::string(kPlainForms),
                      .found = fmt::format("{} {}", printable(e.dtype_name), shape_text(e.shape))});
    return false;
  }

  bool shape_fits(const Part& part, int number) {
    const CatalogEntry& e = entry(number);
    const bool same_rank = e.shape.size() == part.shape.size();
    std::vector<std::string> fields;
    bool fits = same_rank;
    for (size_t i = 0; i < part.shape.size(); ++i) {
      if (same_rank && e.shape[i] == part.shape[i].size) continue;
      fits = false;
      const std::string& field = part.shape[i].field;
      if (!field.empty() && std::find(fields.begin(), fields.end(), field) == fields.end())
        fields.push_back(field);
    }
    if (fits) return true;
    const std::string reason = fields.empty() ? "than this model needs"
                                              : fmt::format("than config.json's {} says", enumerate(fields));
    complain(number, {.kind = ErrorKind::kShapeMismatch,
                      .message = fmt::format("{} has another shape {}.", printable(e.name), reason),
                      .expected = shape_with_fields(part.shape),
                      .found = shape_text(e.shape),
                      .todo = "check that config.json belongs to this checkpoint"});
    return false;
  }

  /// A problem of one entry, said once.
  void complain(int number, Problem problem) {
    if (std::exchange(state(number).faulty, true)) return;
    problem.file = file_of(number);
    problem.tensor = entry(number).name;
    plan_.problems.push_back(std::move(problem));
  }

  [[nodiscard]] PlannedParameter planned(const Parameter& parameter, const Spelling& spelling) const {
    std::vector<WeightForm> stored;
    for (const int number : spelling.entries) stored.push_back(plain_form(entry(number).dtype).value());
    PlannedParameter result{.held = choose_held(parameter.held_as, stored)};
    const bool alone = spelling.entries.size() == 1 && parameter.arrangement == Arrangement::kRows;
    for (const int number : spelling.entries) {
      PlannedSource source{.entry = number};
      const CatalogEntry& e = entry(number);
      if (e.dtype != stored_dtype(result.held)) {
        source.steps.push_back(StepKind::kConvert);
      } else if (alone) {
        source.steps.push_back(e.offset % size_bytes(e.dtype) == 0 ? StepKind::kMap : StepKind::kCopy);
      } else if (parameter.arrangement == Arrangement::kRows) {
        source.steps.push_back(StepKind::kCopy);
      }
      if (!result.sources.empty()) source.steps.push_back(StepKind::kConcatRows);
      if (parameter.arrangement == Arrangement::kUkTransposed) source.steps.push_back(StepKind::kTranspose);
      if (parameter.arrangement == Arrangement::kUv) source.steps.push_back(StepKind::kSplitHeads);
      result.sources.push_back(std::move(source));
    }
    return result;
  }

  void settle_leftover(int number, std::span<const IgnoreRule> ignore) {
    const CatalogEntry& e = entry(number);
    for (const IgnoreRule& rule : ignore) {
      if (matches_pattern(e.name, rule.pattern)) {
        plan_.ignored.push_back({.entry = number, .rule = rule.name});
        return;
      }
    }
    const auto [module, last] = split_last(e.name);
    if (std::find(kScaleNames.begin(), kScaleNames.end(), last) != kScaleNames.end()) {
      settle_scale(number, module);
      return;
    }
    complain(number,
             {.kind = ErrorKind::kUnexpectedTensor,
              .message = fmt::format("{} is a tensor that this model has no use for.", printable(e.name)),
              .found = described(number),
              .todo = "check its name, and that config.json belongs to this checkpoint"});
  }

  /// A scale belongs to the quantized weight beside it.
  void settle_scale(int number, std::string_view module) {
    int weight = -1;
    for (const StorageForm& form : kStorageForms) {
      if (weight < 0) weight = find(fmt::format("{}.{}", module, form.weight));
    }
    if (weight >= 0 && (state(weight).quantized || state(weight).faulty)) return;
    complain(number, {.kind = ErrorKind::kOrphanScale,
                      .message = fmt::format("{} is a scale without a quantized weight beside it.",
                                             printable(entry(number).name)),
                      .expected = fmt::format("{}.weight, quantized", printable(module)),
                      .found = weight >= 0 ? described(weight) : "no such tensor"});
  }

  /// One problem for each quantized type, however many weights have it.
  void refuse_quantized() {
    for (const DType dtype : {DType::kF8E4M3, DType::kU8}) {
      int count = 0;
      int first = -1;
      for (size_t i = 0; i < state_.size(); ++i) {
        if (!state_[i].quantized || catalog_.entries[i].dtype != dtype) continue;
        if (count++ == 0) first = static_cast<int>(i);
      }
      if (count == 0) continue;
      plan_.problems.push_back(
          {.kind = ErrorKind::kUnsupported,
           .file = file_of(first),
           .tensor = entry(first).name,
           .message = fmt::format("{} weights are stored as {}, the first being {}; this build reads "
                                  "bf16, f16 and f32.",
                                  count, name(dtype), printable(entry(first).name)),
           .expected = std::string(kPlainForms),
           .found = std::string(name(dtype)),
           .todo = "use a bf16 release of this model"});
    }
  }

  const Catalog& catalog_;
  std::unordered_map<std::string_view, int> by_name_;
  std::vector<State> state_;  // parallel to the catalog's entries
  std::unordered_set<std::string> missing_;
  LoadPlan plan_;
};

}  // namespace

LoadPlan resolve(std::span<const Parameter> parameters, std::span<const IgnoreRule> ignore,
                 const Catalog& catalog) {
  return Resolver(catalog).resolve(parameters, ignore);
}

}  // namespace fulgur
