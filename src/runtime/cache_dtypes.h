#pragma once

#include <string_view>

#include "base/dtype.h"
#include "fulgur/engine.h"
#include "model/config.h"
#include "model/weights.h"
#include "ops/backend.h"

namespace fulgur {

/// What the caches of a run hold (docs/spec/model.md, section 12).
struct CacheDTypes {
  DType latents = DType::kBf16;
  DType index_keys = DType::kBf16;
};

/// Those that `forms` asks for. Throws bad_request for a form that the model or the back end doesn't have.
CacheDTypes cache_dtypes(const CacheForms& forms, const Config& config, Precision precision,
                         const Backend& backend);

/// "bf16", "fp8", "f32"
std::string_view cache_form_name(DType dtype);

}  // namespace fulgur
