#include "checkpoint/conversion_refusals.h"

#include <fmt/format.h>

#include <cmath>

#include "base/printable.h"
#include "checkpoint/scaled_values.h"

namespace fulgur {

Problem unwritable_value(const Catalog& catalog, const CatalogEntry& weight, const std::string& index,
                         float value, const StorageForm& form) {
  Problem problem{.kind = ErrorKind::kBadValue, .file = catalog.file_of(weight), .tensor = weight.name};
  if (std::isfinite(value)) {
    problem.message =
        fmt::format("{}{} is {}, which is infinite as {}.", printable(weight.name), index, value, form.label);
    problem.expected =
        fmt::format("magnitudes of at most {:.4g}, what bf16 holds, also once they are rounded", kMostBf16);
    problem.found = fmt::format("{} at {}", value, index);
    problem.todo = "correct this value, or leave it as it is stored: convert without --to";
  } else {
    problem.message = fmt::format("{}{} is not a finite number.", printable(weight.name), index);
    problem.expected = "finite weights";
    problem.found = fmt::format("a NaN or an infinity at {}", index);
    problem.todo = "find all such values with fulgur inspect --verify, and fetch the file again";
  }
  return problem;
}

Problem lost_matrix(const Catalog& catalog, const CatalogEntry& weight, float largest,
                    const StorageForm& form) {
  return {.kind = ErrorKind::kBadValue,
          .file = catalog.file_of(weight),
          .tensor = weight.name,
          .message = fmt::format("{} is so small that nothing but zeros would be left of it as {}.",
                                 printable(weight.name), form.label),
          .expected = fmt::format("magnitudes that {} can hold, or zeros alone", form.label),
          .found = fmt::format("no magnitude above {}", largest),
          .todo = "correct this tensor, or leave it as it is stored: convert without --to"};
}

Problem unwritable_scale(const Catalog& catalog, const CatalogEntry& scale, float value, bool infinite) {
  return {.kind = ErrorKind::kBadScale,
          .file = catalog.file_of(scale),
          .tensor = scale.name,
          .message = fmt::format(
              "{} is {}, which can't be written as its reciprocal: {}.", printable(scale.name), value,
              infinite ? "codes that it scales become infinite" : "that is no normal number"),
          .expected = "a scale that leaves codes finite in bf16, with a reciprocal above 1.2e-38",
          .found = fmt::format("{}", value),
          .todo = "fetch this file again, or convert again"};
}

bool any_nonzero(WeightForm form, const std::byte* values, int64_t bytes) {
  const int64_t width = is_plain(form) ? row_bytes(form, 1) : 1;
  const std::byte last{form == WeightForm::kNvfp4 ? uint8_t{0x77} : uint8_t{0x7f}};  // without signs
  for (int64_t i = 0; i < bytes; ++i) {
    const std::byte mask = i % width == width - 1 ? last : std::byte{0xff};
    if ((values[i] & mask) != std::byte{0}) return true;
  }
  return false;
}

}  // namespace fulgur
