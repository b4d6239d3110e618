#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "checkpoint/catalog.h"

namespace fulgur {

/// One tensor of a catalog by its name: missing_tensor if it isn't there.
const CatalogEntry& require(const Catalog& catalog, std::string_view name);

/// The values of an entry stored as I16, I32 or I64; any other type is an unknown_dtype. Throws io_error if
/// the file changed under it.
std::vector<int64_t> read_integers(const Catalog& catalog, const CatalogEntry& entry);
/// The same for BF16, F16 and F32.
std::vector<float> read_floats(const Catalog& catalog, const CatalogEntry& entry);

}  // namespace fulgur
