#include "checkpoint/stored_module.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <utility>

#include "base/printable.h"
#include "checkpoint/safetensors_header.h"
#include "checkpoint/storage_form.h"

namespace fulgur {
namespace {

/// A shape that a scale may have, and what one of its values then covers.
struct ScaleShape {
  std::vector<Dim> dims;
  int64_t block_rows = 0;
  int64_t block_cols = 0;
};

Dim divided(const Dim& dim, int64_t by, std::string_view format) {
  const std::string field = dim.field.find(' ') == std::string::npos ? dim.field : "(" + dim.field + ")";
  return {(dim.size + by - 1) / by, fmt::format(fmt::runtime(format), field, by)};
}

/// The shapes that a scale of `role` may have beside a weight of `shape`.
std::vector<ScaleShape> scale_shapes(ScaleRole role, const std::vector<Dim>& shape, const Fp8Scheme& scheme) {
  const Dim& rows = shape.front();
  const Dim& cols = shape.back();
  const ScaleShape scalars[] = {{{}, rows.size, cols.size}, {{{1, ""}}, rows.size, cols.size}};
  if (role == ScaleRole::kGroups) return {{{rows, divided(cols, kNvfp4Group, "{} / {}")}, 0, 0}};
  if (role != ScaleRole::kBlocks) return {scalars[0], scalars[1]};
  std::vector<ScaleShape> shapes;
  if (scheme.block_scales) {
    shapes.push_back({{divided(rows, kFp8Block, "ceil({} / {})"), divided(cols, kFp8Block, "ceil({} / {})")},
                      kFp8Block,
                      kFp8Block});
  }
  if (scheme.row_scales) shapes.push_back({{rows, {1, ""}}, 1, cols.size});
  if (scheme.tensor_scales) shapes.insert(shapes.end(), std::begin(scalars), std::end(scalars));
  return shapes;
}

std::string any_of(const std::vector<ScaleShape>& shapes) {
  std::vector<std::string> texts;
  for (const ScaleShape& shape : shapes) texts.push_back(shape_with_fields(shape.dims));
  return fmt::format("{}", fmt::join(texts, " or "));
}

/// A weight's own shape, of values.
std::vector<Dim> unpacked(const std::vector<int64_t>& stored, WeightForm form) {
  std::vector<Dim> shape;
  for (const int64_t size : stored) shape.push_back({size, ""});
  if (form == WeightForm::kNvfp4 && !shape.empty()) shape.back().size *= kNvfp4CodesPerByte;
  return shape;
}

/// The dtypes that a scale of `role` may have.
std::vector<DType> scale_dtypes(ScaleRole role, const Fp8Scheme& scheme) {
  if (role == ScaleRole::kGroups) return {DType::kF8E4M3};
  if (role == ScaleRole::kActivations) return {DType::kF32, DType::kBf16, DType::kF16};
  if (role != ScaleRole::kBlocks) return {DType::kF32};
  std::vector<DType> dtypes = {DType::kF32, DType::kBf16, DType::kF8E8M0};
  if (scheme.u8_scales) dtypes.push_back(DType::kU8);
  return dtypes;
}

std::string any_of(const std::vector<DType>& dtypes) {
  std::vector<std::string_view> names;
  for (const DType dtype : dtypes) names.push_back(name(dtype));
  return fmt::format("{}", fmt::join(names, " or "));
}

bool same_shape(const std::vector<int64_t>& stored, const std::vector<Dim>& wanted) {
  return std::equal(stored.begin(), stored.end(), wanted.begin(), wanted.end(),
                    [](int64_t size, const Dim& dim) { return size == dim.size; });
}

bool has_one_of(const CatalogEntry& e, const std::vector<std::vector<Dim>>& shapes) {
  return std::any_of(shapes.begin(), shapes.end(),
                     [&](const std::vector<Dim>& shape) { return same_shape(e.shape, shape); });
}

/// The shapes that a part's weight may have in a form; `form` null: in any.
std::vector<std::vector<Dim>> weight_shapes(const StorageForm* form, const Part& part) {
  std::vector<std::vector<Dim>> shapes;
  const bool packed = form != nullptr && form->form == WeightForm::kNvfp4;
  if (!packed) shapes.push_back(part.shape);
  if (packed || form == nullptr) {
    shapes.push_back(part.shape);
    shapes.back().back() = divided(part.shape.back(), kNvfp4CodesPerByte, "{} / {}");
  }
  return shapes;
}

/// Whether a tensor has type and shape of such a scale.
bool is_scale_for(const CatalogEntry& e, ScaleRole role, const Part& part, const Fp8Scheme& scheme) {
  const std::vector<DType> dtypes = scale_dtypes(role, scheme);
  const std::vector<ScaleShape> shapes = scale_shapes(role, part.shape, scheme);
  return e.dtype_known && std::find(dtypes.begin(), dtypes.end(), e.dtype) != dtypes.end() &&
         std::any_of(shapes.begin(), shapes.end(),
                     [&](const ScaleShape& shape) { return same_shape(e.shape, shape.dims); });
}

/// The config's fields that promise another size than is stored.
std::vector<std::string> contradicted(const std::vector<int64_t>& stored, const std::vector<Dim>& wanted) {
  std::vector<std::string> fields;
  for (size_t i = 0; i < wanted.size(); ++i) {
    if (stored.size() == wanted.size() && stored[i] == wanted[i].size) continue;
    const std::string& field = wanted[i].field;
    if (!field.empty() && std::find(fields.begin(), fields.end(), field) == fields.end())
      fields.push_back(field);
  }
  return fields;
}

}  // namespace

bool is_scale(std::string_view tensor) {
  const std::string_view last = split_last(tensor).second;
  return std::any_of(kStorageForms.begin(), kStorageForms.end(), [&](const StorageForm& form) {
    return std::any_of(form.scales.begin(), form.scales.end(),
                       [&](const ScaleSpelling& scale) { return scale.name == last; });
  });
}

std::string shape_with_fields(const std::vector<Dim>& shape) {
  std::vector<std::string> dims;
  for (const Dim& dim : shape) {
    dims.push_back(dim.field.empty() ? std::to_string(dim.size)
                                     : fmt::format("{} ({})", dim.size, dim.field));
  }
  return fmt::format("[{}]", fmt::join(dims, ", "));
}

int ModuleReader::find(std::string_view tensor) {
  int found = ledger_.find(tensor);
  const auto [module, last] = split_last(tensor);
  if (last != "weight") return found;
  for (const StorageForm& form : kStorageForms) {
    if (form.weight == last) continue;
    const int other = ledger_.find(fmt::format("{}.{}", module, form.weight));
    if (other >= 0 && found >= 0) ledger_.conflict({found, other});
    if (found < 0) found = other;
  }
  return found;
}

bool ModuleReader::lies_unread(std::string_view tensor) {
  const CatalogGaps& gaps = ledger_.catalog().gaps;
  const auto at = gaps.unlisted.find(tensor);
  if (at != gaps.unlisted.end()) unlisted_[at->second].insert(at->first);
  return at != gaps.unlisted.end() || gaps.may_hold(tensor);
}

bool ModuleReader::may_be_unread(std::string_view tensor) {
  const CatalogGaps& gaps = ledger_.catalog().gaps;
  if (gaps.empty() && gaps.unlisted.empty()) return false;
  const auto [module, last] = split_last(tensor);
  return lies_unread(tensor) ||
         (last == "weight" && std::any_of(kStorageForms.begin(), kStorageForms.end(),
                                          [&, name = module](const StorageForm& form) {
                                            return lies_unread(fmt::format("{}.{}", name, form.weight));
                                          }));
}

void ModuleReader::complain_of_index() {
  for (const auto& [file, tensors] : unlisted_) {
    const size_t more = tensors.size() - 1;
    ledger_.report(
        {.kind = ErrorKind::kBadIndex,
         .file = file,
         .message = fmt::format("The index doesn't list this shard, in which {}{} lie{}: the model needs {}.",
                                printable_name(*tensors.begin()),
                                more == 0 ? "" : fmt::format(" and {} more tensors", more),
                                more == 0 ? "s" : "", more == 0 ? "it" : "them"),
         .expected = fmt::format("{} in the weight_map of {}", file, ledger_.catalog().source),
         .found = "a shard that it doesn't name, and no other that holds " +
                  std::string(more == 0 ? "the tensor" : "the tensors"),
         .todo = fmt::format("fetch {} again, or write it anew for these shards", ledger_.catalog().source)});
  }
}

const StorageForm* ModuleReader::form_of(int weight, std::string_view component) const {
  const CatalogEntry& e = ledger_.entry(weight);
  const auto form = std::find_if(kStorageForms.begin(), kStorageForms.end(), [&](const StorageForm& row) {
    return e.dtype_known && row.dtype == e.dtype && row.weight == component;
  });
  return form == kStorageForms.end() ? nullptr : &*form;
}

std::optional<PlannedSource> ModuleReader::read(const Part& part, int weight, bool quantizable) {
  // A bias is stored as a weight is, under a name of its own.
  const std::string_view name = ledger_.entry(weight).name;
  const StorageForm* form = form_of(weight, name == part.tensor ? "weight" : split_last(name).second);
  // Of two weights of one module, none is believed: the scales beside them are of either.
  if (ledger_.said(weight, ErrorKind::kConflictingTensors)) {
    check_rivals(part, quantizable);
    return std::nullopt;
  }
  if (!form_fits(form, weight, quantizable)) {
    weight_fits(nullptr, part, weight);
    return std::nullopt;
  }
  PlannedSource source{.entry = weight, .form = form};
  const bool fits = weight_fits(form, part, weight);
  if (!find_scales(*form, part, fits, source) || !fits) return std::nullopt;
  return source;
}

bool ModuleReader::form_fits(const StorageForm* form, int weight, bool quantizable) {
  const CatalogEntry& e = ledger_.entry(weight);
  if (form != nullptr && (form->scales.empty() || quantizable)) return true;
  std::string reason = "a type that this build doesn't know";
  if (e.dtype_known) reason = "which can't stand here";
  if (form != nullptr) reason = "but this module is never quantized";
  ledger_.complain(
      weight,
      {.kind = ErrorKind::kUnknownDType,
       .message = fmt::format("{} is stored as {}, {}.", printable(e.name), printable(e.dtype_name), reason),
       .expected = quantizable ? "BF16, F16, F32, FP8 (F8_E4M3) or NVFP4 (U8)" : "BF16, F16 or F32",
       .found = fmt::format("{} {}", printable(e.dtype_name), shape_text(e.shape)),
       .todo = "convert again, to a type that can stand here"});
  return false;
}

void ModuleReader::check_rivals(const Part& part, bool quantizable) {
  const std::string_view module = split_last(part.tensor).first;
  std::vector<std::pair<int, const StorageForm*>> rivals;
  for (const StorageForm& row : kStorageForms) {
    const int weight = ledger_.find(fmt::format("{}.{}", module, row.weight));
    if (weight >= 0 && (rivals.empty() || rivals.back().first != weight))
      rivals.emplace_back(weight, form_of(weight, row.weight));
  }
  const auto can_stand = [&](const StorageForm* form) {
    return form != nullptr && (form->scales.empty() || quantizable);
  };
  if (std::any_of(rivals.begin(), rivals.end(), [&](const auto& rival) {
        return can_stand(rival.second) &&
               has_one_of(ledger_.entry(rival.first), weight_shapes(rival.second, part));
      }))
    return;
  for (const auto& [weight, form] : rivals)
    weight_fits(form_fits(form, weight, quantizable) ? form : nullptr, part, weight);
}

bool ModuleReader::weight_fits(const StorageForm* form, const Part& part, int weight) {
  const CatalogEntry& e = ledger_.entry(weight);
  const Dim& cols = part.shape.back();
  const bool packed = form != nullptr && form->form == WeightForm::kNvfp4;
  if (packed && cols.size % kNvfp4Group != 0) {
    ledger_.complain(weight, {.kind = ErrorKind::kShapeMismatch,
                              .message = fmt::format(
                                  "{} is stored as NVFP4, whose groups of {} columns don't fill its rows.",
                                  printable(e.name), kNvfp4Group),
                              .expected = fmt::format("{}, a multiple of {}", cols.field, kNvfp4Group),
                              .found = fmt::format("{} {}", cols.field, cols.size),
                              .todo = "convert this module again, to bf16 or FP8"});
    return false;
  }
  const std::vector<std::vector<Dim>> wanted = weight_shapes(form, part);
  if (has_one_of(e, wanted)) return true;
  const std::vector<std::string> fields = contradicted(e.shape, wanted.front());
  const std::string reason = fields.empty() ? "than this model needs"
                                            : fmt::format("than config.json's {} {}", enumerate(fields),
                                                          fields.size() == 1 ? "says" : "say");
  std::vector<std::string> shapes;
  for (const std::vector<Dim>& shape : wanted) shapes.push_back(shape_with_fields(shape));
  ledger_.complain(weight, {.kind = ErrorKind::kShapeMismatch,
                            .message = fmt::format("{} has another shape {}.", printable(e.name), reason),
                            .expected = fmt::format("{}", fmt::join(shapes, ", or packed ")),
                            .found = shape_text(e.shape),
                            .todo = "check that config.json belongs to this checkpoint"});
  return false;
}

bool ModuleReader::find_scales(const StorageForm& form, const Part& part, bool weight_fits,
                               PlannedSource& source) {
  const std::string_view module = split_last(part.tensor).first;
  std::vector<std::string> absent;
  std::vector<std::string> wanted;
  bool all_fit = true;
  for (auto first = form.scales.begin(); first != form.scales.end();) {
    const ScaleRole role = first->role;
    std::vector<std::string> names;
    std::vector<int> present;
    for (; first != form.scales.end() && first->role == role; ++first) {
      names.push_back(fmt::format("{}.{}", module, first->name));
      if (const int number = ledger_.find(names.back()); number >= 0) present.push_back(number);
    }
    for (const int number : present) ledger_.consume(number);
    if (role == ScaleRole::kActivations) {
      for (const int number : present)
        all_fit = scale_fits(part, {.entry = number, .role = role}, weight_fits, source) && all_fit;
      unneeded_.insert(unneeded_.end(), present.begin(), present.end());
    } else if (present.empty() && std::any_of(names.begin(), names.end(),
                                              [&](const std::string& name) { return lies_unread(name); })) {
      all_fit = false;  // what is wrong with its file is said already
    } else if (present.empty()) {
      absent.push_back(fmt::format("{}", fmt::join(names, " or ")));
      wanted.push_back(fmt::format("{}, {} {}", absent.back(), any_of(scale_dtypes(role, scheme_)),
                                   any_of(scale_shapes(role, part.shape, scheme_))));
    } else if (present.size() > 1) {
      ledger_.conflict(present);
      all_fit = false;
      // Where one is as it should be, the other is what is to go.
      if (std::none_of(present.begin(), present.end(), [&](int number) {
            return is_scale_for(ledger_.entry(number), role, part, scheme_);
          })) {
        for (const int number : present)
          scale_fits(part, {.entry = number, .role = role}, weight_fits, source);
      }
    } else {
      source.scales.push_back({.entry = present.front(), .role = role});
      all_fit = scale_fits(part, source.scales.back(), weight_fits, source) && all_fit;
    }
  }
  if (absent.empty()) return all_fit;
  const CatalogEntry& e = ledger_.entry(source.entry);
  ledger_.complain(
      source.entry,
      {.kind = ErrorKind::kMissingScale,
       .message = fmt::format("{} is {}, but its scale{} nowhere: no file holds {}.", printable(e.name),
                              e.dtype_name, absent.size() == 1 ? " is" : "s are", enumerate(absent)),
       .expected = enumerate(wanted) + ", in any shard",
       .found = ledger_.described(source.entry),
       .todo = "fetch the shard that holds it, or convert again without dropping it"});
  return false;
}

bool ModuleReader::scale_dtype_fits(const PlannedScale& scale) {
  const CatalogEntry& e = ledger_.entry(scale.entry);
  const std::vector<DType> dtypes = scale_dtypes(scale.role, scheme_);
  if (e.dtype_known && std::find(dtypes.begin(), dtypes.end(), e.dtype) != dtypes.end()) return true;
  const bool is_u8_block = scale.role == ScaleRole::kBlocks && e.dtype_known && e.dtype == DType::kU8;
  ledger_.complain(
      scale.entry,
      {.kind = ErrorKind::kUnknownDType,
       .message = fmt::format(
           "{} is a scale stored as {}, {}.", printable(e.name), printable(e.dtype_name),
           is_u8_block ? "which means E8M0 only where scale_fmt is \"ue8m0\"" : "which no such scale is"),
       .expected = any_of(dtypes),
       .found = fmt::format("{} {}", printable(e.dtype_name), shape_text(e.shape)),
       .todo = "convert again, with scales of that type"});
  return false;
}

bool ModuleReader::scale_fits(const Part& part, const PlannedScale& scale, bool weight_fits,
                              PlannedSource& source) {
  const bool dtype_fits = scale_dtype_fits(scale);
  const CatalogEntry& e = ledger_.entry(scale.entry);
  const std::vector<ScaleShape> shapes = scale_shapes(scale.role, part.shape, scheme_);
  const auto is_stored = [&](const ScaleShape& shape) { return same_shape(e.shape, shape.dims); };
  const auto fit = std::find_if(shapes.begin(), shapes.end(), is_stored);
  if (fit != shapes.end()) {
    if (scale.role == ScaleRole::kBlocks) {
      source.block_rows = fit->block_rows;
      source.block_cols = fit->block_cols;
    }
    return dtype_fits;
  }
  // A scale that fits a weight of the wrong shape is no second fault.
  const std::vector<Dim> weight = unpacked(ledger_.entry(source.entry).shape, source.form->form);
  if (!weight_fits && weight.size() == part.shape.size()) {
    const std::vector<ScaleShape> others = scale_shapes(scale.role, weight, scheme_);
    if (std::any_of(others.begin(), others.end(), is_stored)) return dtype_fits;
  }
  ledger_.complain(scale.entry,
                   {.kind = ErrorKind::kShapeMismatch,
                    .message = fmt::format("{} has another shape than the scale of a weight {} has.",
                                           printable(e.name), shape_with_fields(part.shape)),
                    .expected = any_of(shapes),
                    .found = shape_text(e.shape),
                    .todo = "convert again, and check what config.json says of the quantization"});
  return false;
}

bool ModuleReader::belongs(int scale) const {
  const auto [module, last] = split_last(ledger_.entry(scale).name);
  const auto has_scale = [&, name = last](const StorageForm& form) {
    return std::any_of(form.scales.begin(), form.scales.end(),
                       [&](const ScaleSpelling& spelling) { return spelling.name == name; });
  };
  return std::any_of(kStorageForms.begin(), kStorageForms.end(), [&, name = module](const StorageForm& row) {
    if (!has_scale(row)) return false;
    const int weight = ledger_.find(fmt::format("{}.{}", name, row.weight));
    if (weight < 0) return false;
    // What is wrong with a weight's type leaves open which of the forms under its name was meant.
    const StorageForm* form = form_of(weight, row.weight);
    return form == nullptr || form == &row || ledger_.damaged(weight) ||
           ledger_.said(weight, ErrorKind::kUnknownDType);
  });
}

void ModuleReader::complain_of_orphan(int scale, bool weight_missing) {
  const CatalogEntry& e = ledger_.entry(scale);
  const std::string_view module = split_last(e.name).first;
  const int weight = find(fmt::format("{}.weight", module));
  ledger_.complain(
      scale,
      {.kind = ErrorKind::kOrphanScale,
       .message = fmt::format("{} is a scale, but no weight that it could belong to is "
                              "beside it.",
                              printable(e.name)),
       .expected = fmt::format("{}.weight, quantized in the form that has such a scale", printable(module)),
       .found = weight >= 0 ? ledger_.described(weight) : "no weight of that name",
       .todo = weight_missing ? "fetch the shard that holds the weight, or convert again"
                              : "take this scale away, or convert again with the weight that it belongs to"});
}

}  // namespace fulgur
