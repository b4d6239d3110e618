#include "runtime/cache_dtypes.h"

#include <fmt/format.h>

#include "base/error.h"

namespace fulgur {
namespace {

DType dtype_of(CacheForm form, Precision precision) {
  switch (form) {
    case CacheForm::kBf16:
      return DType::kBf16;
    case CacheForm::kFp8:
      return DType::kF8E4M3;
    case CacheForm::kF32:
      return DType::kF32;
    case CacheForm::kByPrecision:
      return operand_dtype(precision);
  }
  throw Error(Problem{.kind = ErrorKind::kBadRequest,
                      .message = "A form of the caches' entries is none of those there are.",
                      .expected = "kByPrecision, kBf16, kFp8 or kF32",
                      .found = fmt::format("CacheForm {}", static_cast<int>(form)),
                      .todo = "leave it to the precision"});
}

[[noreturn]] void refuse(std::string_view entries, DType dtype, const Backend& backend) {
  throw Error(Problem{.kind = ErrorKind::kBadRequest,
                      .message = fmt::format("The back end '{}' has no {} in {}.", backend.name, entries,
                                             cache_form_name(dtype)),
                      .todo = "leave their form to the precision"});
}

}  // namespace

CacheDTypes cache_dtypes(const CacheForms& forms, const Config& config, Precision precision,
                         const Backend& backend) {
  if (forms.index_keys != CacheForm::kByPrecision && !config.sparse()) {
    throw Error(Problem{
        .kind = ErrorKind::kBadRequest,
        .message =
            "A form of index keys (--index-dtype, CacheForms::index_keys) needs a model with an indexer.",
        .found = fmt::format("model_type {}", name(config.model_type)),
        .todo = "leave it away, or choose a deepseek_v32 or glm_moe_dsa model"});
  }
  const CacheDTypes dtypes{.latents = dtype_of(forms.latents, precision),
                           .index_keys = dtype_of(forms.index_keys, precision)};
  const DType operand = operand_dtype(precision);
  if (dtypes.latents != operand && !backend.mixed_caches) refuse("latents", dtypes.latents, backend);
  const bool has_keys = dtypes.index_keys == operand ||
                        (dtypes.index_keys == DType::kF8E4M3 ? backend.fp8_keys : backend.mixed_caches);
  if (!has_keys) refuse("index keys", dtypes.index_keys, backend);
  return dtypes;
}

std::string_view cache_form_name(DType dtype) {
  switch (dtype) {
    case DType::kBf16:
      return "bf16";
    case DType::kF8E4M3:
      return "fp8";
    default:
      return "f32";
  }
}

}  // namespace fulgur
