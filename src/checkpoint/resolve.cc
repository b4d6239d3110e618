#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

#include "base/printable.h"
#include "checkpoint/ledger.h"
#include "checkpoint/load_plan.h"
#include "checkpoint/stored_module.h"

namespace fulgur {
namespace {

constexpr const char* kUnneededScales = "scales of activations, which are not quantized here";

/// Whether every value of `stored` has an exact twin in `held`.
bool holds_exactly(WeightForm held, WeightForm stored) {
  return held == stored ||
         (held == WeightForm::kF32 && (stored == WeightForm::kBf16 || stored == WeightForm::kF16));
}

/// The rule of Parameter::held_as, over those forms that can be read.
WeightForm choose_held(const std::vector<WeightForm>& held_as, const std::vector<PlannedSource>& sources,
                       std::span<const WeightForm> readable) {
  std::vector<WeightForm> forms;
  std::copy_if(held_as.begin(), held_as.end(), std::back_inserter(forms), [&](WeightForm form) {
    return is_plain(form) || std::find(readable.begin(), readable.end(), form) != readable.end();
  });
  const auto holds_all = [&](WeightForm held) {
    return std::all_of(sources.begin(), sources.end(),
                       [&](const PlannedSource& source) { return holds_exactly(held, source.form->form); });
  };
  const WeightForm stored = sources.front().form->form;
  if (std::find(forms.begin(), forms.end(), stored) != forms.end() &&
      std::all_of(sources.begin(), sources.end(),
                  [&](const PlannedSource& source) { return source.form->form == stored; }))
    return stored;
  if (const auto exact = std::find_if(forms.begin(), forms.end(), holds_all); exact != forms.end())
    return *exact;
  const auto first =
      std::find_if(forms.begin(), forms.end(), [](WeightForm held) { return held != WeightForm::kF16; });
  return first != forms.end() ? *first : forms.front();
}

/// Steps of a scale: FP8's are widened to f32, NVFP4's lie as kernels read them.
std::vector<StepKind> scale_steps(ScaleRole role, const CatalogEntry& stored) {
  switch (role) {
    case ScaleRole::kBlocks:
      return {stored.dtype == DType::kF32 ? StepKind::kCopy : StepKind::kConvert};
    case ScaleRole::kGroups:
      return {stored.drawn ? StepKind::kDraw : StepKind::kMap};
    case ScaleRole::kFactor:
      return {StepKind::kMultiplyBy};
    case ScaleRole::kDivisor:
      return {StepKind::kDivideBy};
    case ScaleRole::kActivations:
      break;
  }
  return {};
}

/// More than any release holds.
constexpr size_t kMostUnexpected = 250'000;

class Resolver {
 public:
  Resolver(const Catalog& catalog, const Fp8Scheme& fp8, std::span<const WeightForm> readable)
      : ledger_(catalog), modules_(ledger_, fp8), readable_(readable) {}

  LoadPlan resolve(std::span<const Parameter> parameters, std::span<const IgnoreRule> ignore) {
    for (const Parameter& parameter : parameters) plan_.parameters.push_back(plan(parameter));
    std::unordered_set<int> ignored;
    for (const int scale : modules_.unneeded()) {
      if (!ignored.insert(scale).second) continue;
      plan_.ignored.push_back({.entry = scale, .rule = kUnneededScales});
      plan_.activations.push_back(scale);
    }
    std::vector<int> unexpected;
    for (int number = 0; number < ledger_.size(); ++number) {
      if (!ledger_.consumed(number) && !settles(number, ignore)) unexpected.push_back(number);
    }
    complain_of_unexpected(unexpected);
    modules_.complain_of_index();
    plan_.problems = std::move(ledger_).problems();
    return std::move(plan_);
  }

 private:
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

  PlannedParameter plan(const Parameter& parameter) {
    std::vector<Spelling> touched;
    std::vector<int> present;
    for (const std::vector<Part>& parts : parameter.spellings) {
      Spelling spelling{.parts = &parts};
      for (const Part& part : parts) {
        spelling.entries.push_back(modules_.find(part.tensor));
        if (spelling.entries.back() >= 0) {
          present.push_back(spelling.entries.back());
          ledger_.consume(present.back());
        }
      }
      if (spelling.touched()) touched.push_back(std::move(spelling));
    }
    std::vector<int> rivals;
    for (const std::string& rival : parameter.rivals) {
      if (const int number = modules_.find(rival); number >= 0) {
        rivals.push_back(number);
        ledger_.consume(number);
      }
    }
    // What is wrong with one tensor is said whatever is wrong with others.
    std::vector<PlannedSource> sources;
    for (const Spelling& spelling : touched) read(parameter, spelling, sources);
    if (touched.size() > 1 || (!touched.empty() && !rivals.empty())) {
      present.insert(present.end(), rivals.begin(), rivals.end());
      ledger_.conflict(present);
      return {};
    }
    if (touched.empty() || !touched.front().complete()) {
      const Spelling* half = touched.empty() ? nullptr : &touched.front();
      if (!may_be_unread(parameter, half)) missing(parameter, half, rivals);
      return {};
    }
    if (sources.size() != touched.front().entries.size()) return {};
    return planned(parameter, std::move(sources));
  }

  /// Adds what is stored well of a spelling's parts.
  void read(const Parameter& parameter, const Spelling& spelling, std::vector<PlannedSource>& sources) {
    for (size_t i = 0; i < spelling.entries.size(); ++i) {
      if (spelling.entries[i] < 0) continue;
      auto source = modules_.read((*spelling.parts)[i], spelling.entries[i], parameter.quantizable);
      if (source) sources.push_back(std::move(*source));
    }
  }

  /// Whether a part that is not there may lie in a file that could not be read.
  [[nodiscard]] bool may_be_unread(const Parameter& parameter, const Spelling* half) {
    return std::any_of(parameter.spellings.begin(), parameter.spellings.end(), [&](const auto& parts) {
      if (half != nullptr && half->parts != &parts) return false;
      for (size_t i = 0; i < parts.size(); ++i) {
        const bool absent = half == nullptr || half->entries[i] < 0;
        if (absent && modules_.may_be_unread(parts[i].tensor)) return true;
      }
      return false;
    });
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
          found.push_back(ledger_.described(half->entries[i]));
          continue;
        }
        wanted.push_back(fmt::format("{} {}", parts[i].tensor, shape_with_fields(parts[i].shape)));
        absent.push_back(parts[i].tensor);
      }
      alternatives.push_back(enumerate(wanted));
    }
    for (const int rival : rivals) {
      found.push_back(
          fmt::format("{}, which takes its place in another kind of model", ledger_.described(rival)));
    }
    if (missing_.contains(absent.front())) return;  // said for the other parameter made from it
    missing_.insert(absent.begin(), absent.end());
    std::vector<std::string> first;  // of one spelling, whichever it is
    for (const Part& part : half != nullptr ? *half->parts : parameter.spellings.front()) {
      if (std::find(absent.begin(), absent.end(), part.tensor) != absent.end()) first.push_back(part.tensor);
    }
    const bool one = first.size() == 1;
    std::string message = fmt::format("{} {} missing: no file holds {}", enumerate(first), one ? "is" : "are",
                                      one ? "it" : "them");
    if (absent.size() > first.size()) message += fmt::format(", nor {}", absent.back());
    if (half != nullptr) message += fmt::format(", though its other half is there: {}", enumerate(found));
    ledger_.report(
        {.kind = ErrorKind::kMissingTensor,
         .file = ledger_.catalog().source,
         .tensor = absent.front(),
         .message = std::move(message) + ".",
         .expected = fmt::format("{}", fmt::join(alternatives, ", or ")),
         .found = found.empty() ? (absent.size() == 1 ? "no such tensor" : "none of them") : enumerate(found),
         .todo = rivals.empty() ? "fetch the shard that holds it, or convert again"
                                : "check that config.json belongs to this checkpoint"});
  }

  PlannedParameter planned(const Parameter& parameter, std::vector<PlannedSource> sources) {
    PlannedParameter result{.sources = std::move(sources)};
    result.held = choose_held(parameter.held_as, result.sources, readable_);
    const bool alone = result.sources.size() == 1 && parameter.arrangement == Arrangement::kRows;
    for (PlannedSource& source : result.sources) {
      const CatalogEntry& e = ledger_.entry(source.entry);
      if (source.form->form != result.held) {
        source.steps.push_back(is_plain(source.form->form) ? StepKind::kConvert : StepKind::kDequantize);
      } else if (alone) {
        const bool aligned = e.offset % size_bytes(e.dtype) == 0;
        source.steps.push_back(e.drawn ? StepKind::kDraw : aligned ? StepKind::kMap : StepKind::kCopy);
      } else if (parameter.arrangement == Arrangement::kRows) {
        source.steps.push_back(StepKind::kCopy);
      }
      if (&source != &result.sources.front()) source.steps.push_back(StepKind::kConcatRows);
      if (parameter.arrangement == Arrangement::kUkTransposed) source.steps.push_back(StepKind::kTranspose);
      if (parameter.arrangement == Arrangement::kUv) source.steps.push_back(StepKind::kSplitHeads);
      for (PlannedScale& scale : source.scales)
        scale.steps = scale_steps(scale.role, ledger_.entry(scale.entry));
    }
    return result;
  }

  /// Whether a tensor that nothing has used is ignored by a rule, or a scale, of which all is said then.
  bool settles(int number, std::span<const IgnoreRule> ignore) {
    const CatalogEntry& e = ledger_.entry(number);
    for (const IgnoreRule& rule : ignore) {
      if (matches_pattern(e.name, rule.pattern)) {
        plan_.ignored.push_back({.entry = number, .rule = rule.name});
        return true;
      }
    }
    if (is_scale(e.name)) {
      const std::string weight = fmt::format("{}.weight", split_last(e.name).first);
      if (!modules_.belongs(number) && !modules_.may_be_unread(weight)) {
        modules_.complain_of_orphan(number, missing_.contains(weight));
      }
      return true;
    }
    return false;
  }

  void complain_of_unexpected(const std::vector<int>& numbers) {
    const bool too_many = numbers.size() > kMostUnexpected;
    for (const int number : numbers) {
      ledger_.complain(
          number, {.kind = ErrorKind::kUnexpectedTensor,
                   .message = fmt::format("{} is a tensor that this model has no use for{}.",
                                          printable_name(ledger_.entry(number).name),
                                          too_many ? fmt::format(", the first of {}", numbers.size()) : ""),
                   .expected = "the tensors that this model is made of, and those that a rule ignores",
                   .found = ledger_.described(number),
                   .todo = "check its name, and that config.json belongs to this checkpoint"});
      if (too_many) return;
    }
  }

  Ledger ledger_;
  ModuleReader modules_;
  std::span<const WeightForm> readable_;
  std::unordered_set<std::string> missing_;
  LoadPlan plan_;
};

}  // namespace

LoadPlan resolve(std::span<const Parameter> parameters, std::span<const IgnoreRule> ignore,
                 const Catalog& catalog, const Fp8Scheme& fp8, std::span<const WeightForm> readable_forms) {
  return Resolver(catalog, fp8, readable_forms).resolve(parameters, ignore);
}

}  // namespace fulgur
