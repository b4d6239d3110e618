#include "checkpoint/conversion_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "checkpoint/exact_form.h"
#include "checkpoint/ledger.h"
#include "checkpoint/stored_module.h"

namespace fulgur {
namespace {

using Way = ConvertedTensor::Way;

std::string module_of(std::string_view tensor) { return std::string(split_last(tensor).first); }

/// FP8 with a grid of scales, and not with one a row or one in all.
bool has_blocks(const PlannedSource& source, const Catalog& catalog) {
  return source.form->form == WeightForm::kFp8 && source.block_rows == kFp8Block &&
         source.block_cols == kFp8Block &&
         catalog.entries[static_cast<size_t>(source.scales.front().entry)].shape.size() == 2;
}

/// The reciprocal of a scale of a whole matrix stands in the other spelling of NVFP4.
void turn_over(ConvertedTensor& scale, const StorageForm& form) {
  scale.way = Way::kReciprocal;
  scale.shape.clear();
  if (form.weight != "weight") scale.shape.push_back(1);
}

int64_t blocks(int64_t rows) { return (rows + kFp8Block - 1) / kFp8Block; }

const ScaleSpelling* activations_of(const StorageForm& form) {
  const auto at = std::find_if(form.scales.begin(), form.scales.end(),
                               [](const ScaleSpelling& s) { return s.role == ScaleRole::kActivations; });
  return at == form.scales.end() ? nullptr : &*at;
}

bool is_input_scale(const ConvertedTensor& tensor) { return tensor.role == ScaleRole::kActivations; }

class Planner {
 public:
  Planner(const LoadPlan& plan, const Catalog& catalog, const ConversionTarget& target)
      : plan_(plan), catalog_(catalog), target_(target), written_(catalog.entries.size()) {
    for (const IgnoredTensor& ignored : plan_.ignored) {
      const auto [module, last] = split_last(entry(ignored.entry).name);
      const auto spells = [&, name = last](const StorageForm& form) {
        const ScaleSpelling* scale = activations_of(form);
        return scale != nullptr && scale->name == name;
      };
      const bool inputs = std::any_of(kStorageForms.begin(), kStorageForms.end(), spells);
      if (inputs) activations_.emplace(module, ignored.entry);
    }
  }

  ConversionPlan plan(std::span<const Parameter> parameters) {
    ConversionPlan result;
    for (size_t i = 0; i < parameters.size(); ++i) add(parameters[i], plan_.parameters[i].sources);
    for (const IgnoredTensor& ignored : plan_.ignored) {
      if (written_[static_cast<size_t>(ignored.entry)]) continue;
      if (target_.recipe && !is_plain_tensor(entry(ignored.entry))) {
        result.left_out.push_back(ignored.entry);
        continue;
      }
      ConvertedModule module{.name = module_of(entry(ignored.entry).name)};
      module.tensors.push_back(whole(ignored.entry));
      modules_.push_back(std::move(module));
    }
    if (target_.recipe) result.inputs_left_out = agree_on_inputs();
    result.modules = std::move(modules_);
    result.rounded = std::move(rounded_);
    return result;
  }

 private:
  [[nodiscard]] const CatalogEntry& entry(int number) const {
    return catalog_.entries[static_cast<size_t>(number)];
  }
  [[nodiscard]] const CatalogEntry& weight(const SourceRows& rows) const { return entry(rows.source->entry); }
  /// Of a type that can stand beside any recipe, and no scale of a quantized weight.
  [[nodiscard]] static bool is_plain_tensor(const CatalogEntry& tensor) {
    return tensor.dtype_known && plain_form(tensor.dtype) && !is_scale(tensor.name);
  }
  [[nodiscard]] static const StorageForm& form_of(const SourceRows& rows) { return *rows.source->form; }
  [[nodiscard]] bool is_whole(const SourceRows& rows) const {
    return weight(rows).shape.size() != 2 || rows.rows == weight(rows).shape.front();
  }

  void add(const Parameter& parameter, const std::vector<PlannedSource>& sources) {
    if (written_[static_cast<size_t>(sources.front().entry)]) return;  // kv_b_proj makes two parameters
    // Their rows, as one sequence, are dealt out to the parts of the spelling.
    std::vector<SourceRows> all;
    for (const PlannedSource& source : sources) {
      const std::vector<int64_t>& shape = entry(source.entry).shape;
      all.push_back({&source, 0, shape.size() == 2 ? shape.front() : 1});
      written_[static_cast<size_t>(source.entry)] = true;
      for (const PlannedScale& scale : source.scales) written_[static_cast<size_t>(scale.entry)] = true;
      if (const int inputs = activations(source); inputs >= 0) written_[static_cast<size_t>(inputs)] = true;
    }
    auto next = all.begin();
    for (const Part& part : spelling(parameter, sources)) {
      std::vector<SourceRows> taken;
      int64_t wanted = part.shape.size() == 2 ? part.shape.front().size : 1;
      while (wanted > 0 && next != all.end()) {
        const int64_t rows = std::min(wanted, next->rows);
        taken.push_back({next->source, next->first_row, rows});
        next->first_row += rows;
        next->rows -= rows;
        wanted -= rows;
        if (next->rows == 0) ++next;
      }
      if (wanted != 0) throw std::logic_error(fmt::format("{} has more rows than its sources", part.tensor));
      modules_.push_back(converted(part, std::move(taken), parameter.quantizable));
    }
  }

  /// The parts that the parameter is written as.
  const std::vector<Part>& spelling(const Parameter& parameter,
                                    const std::vector<PlannedSource>& sources) const {
    const auto& all = parameter.spellings;
    const auto by_parts = [](const auto& a, const auto& b) { return a.size() < b.size(); };
    if (target_.spelling == Spelling::kFused) return *std::min_element(all.begin(), all.end(), by_parts);
    if (target_.spelling == Spelling::kSeparate) return *std::max_element(all.begin(), all.end(), by_parts);
    const auto stored = std::find_if(all.begin(), all.end(), [&](const std::vector<Part>& parts) {
      return parts.size() == sources.size() &&
             module_of(parts.front().tensor) == module_of(entry(sources.front().entry).name);
    });
    if (stored == all.end()) throw std::logic_error(parameter.name + " is stored in no spelling of its own");
    return *stored;
  }

  ConvertedModule converted(const Part& part, std::vector<SourceRows> rows, bool quantizable) {
    const StorageForm& stored = form_of(rows.front());
    const bool matrix = part.shape.size() == 2;
    if (!matrix || (!target_.recipe && can_copy(rows))) return copied(part, rows, stored);
    if (!target_.recipe) {
      const StorageForm& form = plain_form_of(rows);
      if (!holds_exactly(form.form, rows)) rounded_.push_back(part.tensor);
      return computed(part, std::move(rows), form, BlockScales::kF32);
    }
    const StorageForm& form = recipe_form(*target_.recipe, part, quantizable);
    const bool other_spelling = form.form == WeightForm::kNvfp4 && stored.form == WeightForm::kNvfp4 &&
                                rows.size() == 1 && is_whole(rows.front());
    if (other_spelling || (&form == &stored && can_copy(rows) && has_scales_of_recipe(rows)))
      return copied(part, rows, form);
    return computed(part, std::move(rows), form, target_.recipe->scales);
  }

  /// Whether the bytes of these rows can stand below one another, and their scales too.
  [[nodiscard]] bool can_copy(const std::vector<SourceRows>& rows) const {
    const PlannedSource& first = *rows.front().source;
    const bool blocks = has_blocks(first, catalog_);
    int64_t row = 0;
    for (const SourceRows& part : rows) {
      const PlannedSource& source = *part.source;
      if (source.form != first.form || source.block_rows != first.block_rows) return false;
      if (blocks && (row % kFp8Block != 0 || part.first_row % kFp8Block != 0)) return false;
      for (size_t i = 0; i < source.scales.size(); ++i) {
        if (entry(source.scales[i].entry).dtype != entry(first.scales[i].entry).dtype) return false;
      }
      row += part.rows;
    }
    const bool scale_of_matrix = first.form->form == WeightForm::kNvfp4 ||
                                 (first.form->form == WeightForm::kFp8 && !blocks && first.block_rows != 1);
    return rows.size() == 1 || !scale_of_matrix;
  }

  /// FP8 blocks whose scales are chosen and stored as the recipe asks.
  [[nodiscard]] bool has_scales_of_recipe(const std::vector<SourceRows>& rows) const {
    const PlannedSource& source = *rows.front().source;
    if (source.form->form != WeightForm::kFp8) return true;
    const DType dtype = entry(source.scales.front().entry).dtype;
    if (!has_blocks(source, catalog_)) return false;
    if (target_.recipe->keeps_scales) return true;
    if (target_.recipe->scales == BlockScales::kF32) return dtype == DType::kF32;
    return target_.recipe->scales == BlockScales::kE8m0 && (dtype == DType::kF8E8M0 || dtype == DType::kU8);
  }

  /// The plain form for rows that can't keep their bytes.
  [[nodiscard]] const StorageForm& plain_form_of(const std::vector<SourceRows>& rows) const {
    const bool fused = rows.size() > 1;
    const bool f32 =
        fused && !holds_exactly(WeightForm::kBf16, rows) && holds_exactly(WeightForm::kF32, rows);
    return storage_form(f32 ? "f32" : "bf16");
  }
  [[nodiscard]] bool holds_exactly(WeightForm plain, const std::vector<SourceRows>& rows) const {
    return std::all_of(rows.begin(), rows.end(), [&](const SourceRows& part) {
      return holds_values_exactly(plain, *part.source, catalog_);
    });
  }

  static ConvertedModule named(const Part& part, const StorageForm& form) {
    const bool matrix = part.shape.size() == 2;
    const bool weight = split_last(part.tensor).second == "weight";
    return {.name = weight ? module_of(part.tensor) : part.tensor, .form = &form, .matrix = matrix};
  }

  ConvertedModule computed(const Part& part, std::vector<SourceRows> rows, const StorageForm& form,
                           BlockScales scales) const {
    ConvertedModule module = named(part, form);
    for (StoredTensor& tensor : store_as(form, part, scales).tensors) {
      module.tensors.push_back({.name = std::move(tensor.name),
                                .dtype = std::string(fulgur::name(tensor.dtype)),
                                .element_bytes = size_bytes(tensor.dtype),
                                .shape = tensor.shape,
                                .bytes = size_bytes(tensor),
                                .way = Way::kComputed});
    }
    module.rows = part.shape.front().size;
    module.cols = part.shape.back().size;
    module.sources = std::move(rows);
    module.scales = scales;
    return module;
  }

  /// `form`: the stored one, or the other spelling of NVFP4.
  ConvertedModule copied(const Part& part, const std::vector<SourceRows>& rows,
                         const StorageForm& form) const {
    ConvertedModule module = named(part, form);
    const PlannedSource& first = *rows.front().source;
    ConvertedTensor weight = like(first.entry);
    weight.name = form.scales.empty() ? part.tensor : fmt::format("{}.{}", module.name, form.weight);
    if (module.matrix) weight.shape.front() = part.shape.front().size;
    for (const SourceRows& piece : rows) {
      const CatalogEntry& e = entry(piece.source->entry);
      const uint64_t row_bytes = module.matrix ? e.bytes / static_cast<uint64_t>(e.shape.front()) : e.bytes;
      append(weight, piece.source->entry, piece.first_row, piece.rows, row_bytes);
    }
    module.tensors.push_back(std::move(weight));
    if (!form.scales.empty()) module.copied = rows;
    for (size_t i = 0; i < first.scales.size(); ++i)
      module.tensors.push_back(copied_scale(module, rows, form, i));
    if (const int number = activations(first); number >= 0 && rows.size() == 1)
      append_activations(module, number, form, first.form == &form);
    return module;
  }

  /// The scale that is number `i` of every source.
  [[nodiscard]] ConvertedTensor copied_scale(const ConvertedModule& module,
                                             const std::vector<SourceRows>& rows, const StorageForm& form,
                                             size_t i) const {
    const PlannedScale& first = rows.front().source->scales[i];
    ConvertedTensor scale = like(first.entry);
    scale.role = first.role;
    scale.name = fmt::format("{}.{}", module.name, scale_name(first, form));
    const bool of_matrix = first.role == ScaleRole::kFactor || first.role == ScaleRole::kDivisor ||
                           entry(first.entry).shape.size() != 2;
    if (of_matrix) {
      append(scale, first.entry, 0, 1, entry(first.entry).bytes);
      if (rows.front().source->form != &form) turn_over(scale, form);
      return scale;
    }
    scale.shape.front() = 0;
    for (const SourceRows& piece : rows) {
      const int number = piece.source->scales[i].entry;
      const bool in_blocks = has_blocks(*piece.source, catalog_);
      const int64_t first_row = in_blocks ? piece.first_row / kFp8Block : piece.first_row;
      const int64_t count = in_blocks ? blocks(piece.rows) : piece.rows;
      append(scale, number, first_row, count,
             entry(number).bytes / static_cast<uint64_t>(entry(number).shape.front()));
      scale.shape.front() += count;
    }
    if (target_.recipe && entry(first.entry).dtype == DType::kU8)
      scale.dtype = fulgur::name(DType::kF8E8M0);  // spelled as what it is: scale_fmt is the recipe's
    return scale;
  }

  /// As it is stored, or as the recipe's release spells it.
  [[nodiscard]] std::string_view scale_name(const PlannedScale& scale, const StorageForm& form) const {
    const std::string_view stored = split_last(entry(scale.entry).name).second;
    if (!target_.recipe) return stored;
    const auto role = scale.role == ScaleRole::kFactor || scale.role == ScaleRole::kDivisor
                          ? (form.weight == "weight" ? ScaleRole::kFactor : ScaleRole::kDivisor)
                          : scale.role;
    return std::find_if(form.scales.begin(), form.scales.end(),
                        [&](const ScaleSpelling& spelling) { return spelling.role == role; })
        ->name;
  }

  /// The scale of the inputs of a stored module; -1 where there is none.
  [[nodiscard]] int activations(const PlannedSource& source) const {
    const auto at = activations_.find(split_last(entry(source.entry).name).first);
    return at == activations_.end() ? -1 : at->second;
  }
  void append_activations(ConvertedModule& module, int number, const StorageForm& form,
                          bool as_stored) const {
    ConvertedTensor inputs = like(number);
    if (!as_stored && (inputs.dtype != fulgur::name(DType::kF32) || entry(number).bytes != sizeof(float)))
      return;  // of another type, and nothing needs it
    inputs.role = ScaleRole::kActivations;
    inputs.name = fmt::format("{}.{}", module.name, activations_of(form)->name);
    append(inputs, number, 0, 1, entry(number).bytes);
    if (!as_stored) turn_over(inputs, form);
    module.tensors.push_back(std::move(inputs));
  }

  /// Takes the scales of inputs out where some quantized weights have one and others none: how many.
  int agree_on_inputs() {
    const auto has_none = [](const ConvertedModule& module) {
      return module.form != nullptr && activations_of(*module.form) != nullptr && !has_input_scale(module);
    };
    if (std::none_of(modules_.begin(), modules_.end(), has_none)) return 0;
    int removed = 0;
    for (ConvertedModule& module : modules_) {
      removed += static_cast<int>(std::erase_if(module.tensors, is_input_scale));
    }
    return removed;
  }

  /// A tensor of an entry's type and shape, nothing in it yet.
  [[nodiscard]] ConvertedTensor like(int number) const {
    const CatalogEntry& e = entry(number);
    return {.name = e.name,
            .dtype = e.dtype_name,
            .element_bytes = e.dtype_known ? size_bytes(e.dtype) : 1,
            .shape = e.shape};
  }
  [[nodiscard]] ConvertedTensor whole(int number) const {
    ConvertedTensor tensor = like(number);
    append(tensor, number, 0, 1, entry(number).bytes);
    return tensor;
  }
  static void append(ConvertedTensor& tensor, int number, int64_t first_row, int64_t rows,
                     uint64_t row_bytes) {
    const ByteRange range{number, static_cast<uint64_t>(first_row) * row_bytes,
                          static_cast<uint64_t>(rows) * row_bytes};
    tensor.bytes += range.bytes;
    tensor.ranges.push_back(range);
  }

  const LoadPlan& plan_;
  const Catalog& catalog_;
  const ConversionTarget& target_;
  std::vector<bool> written_;                              // or left out: parallel to the catalog's entries
  std::unordered_map<std::string_view, int> activations_;  // by module
  std::vector<ConvertedModule> modules_;
  std::vector<std::string> rounded_;
};

}  // namespace

bool has_input_scale(const ConvertedModule& module) {
  return std::any_of(module.tensors.begin(), module.tensors.end(), is_input_scale);
}

ConversionPlan plan_conversion(std::span<const Parameter> parameters, const LoadPlan& plan,
                               const Catalog& catalog, const ConversionTarget& target) {
  if (!plan.problems.empty()) throw Error(plan.problems);
  return Planner(plan, catalog, target).plan(parameters);
}

}  // namespace fulgur
