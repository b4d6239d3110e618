#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "base/error.h"
#include "checkpoint/catalog.h"
#include "checkpoint/storage_form.h"

// Values that a conversion can't write.

namespace fulgur {

/// A value at `index` ("[2, 5]"), as f32, that is no finite number, or is none in the form that it is to
/// have.
Problem unwritable_value(const Catalog& catalog, const CatalogEntry& weight, const std::string& index,
                         float value, const StorageForm& form);
/// A matrix of magnitudes up to `largest`, all of which would become 0.
Problem lost_matrix(const Catalog& catalog, const CatalogEntry& weight, float largest,
                    const StorageForm& form);
/// A scale whose reciprocal the other spelling of NVFP4 can't hold, or that makes codes infinite.
Problem unwritable_scale(const Catalog& catalog, const CatalogEntry& scale, float value, bool infinite);

/// Whether one of the values, `bytes` of them in a form, is not 0.
bool any_nonzero(WeightForm form, const std::byte* values, int64_t bytes);

}  // namespace fulgur
