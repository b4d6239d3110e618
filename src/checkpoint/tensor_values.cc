#include "checkpoint/tensor_values.h"

#include <fmt/format.h>

#include <cstring>
#include <span>
#include <string>

#include "base/printable.h"
#include "checkpoint/convert.h"

namespace fulgur {
namespace {

[[noreturn]] void refuse_dtype(const Catalog& catalog, const CatalogEntry& entry, std::string_view expected) {
  throw Error(Problem{.kind = ErrorKind::kUnknownDType,
                      .file = catalog.file_of(entry),
                      .tensor = entry.name,
                      .message = fmt::format("{} is stored as {}, which can't stand here.",
                                             printable(entry.name), printable(entry.dtype_name)),
                      .expected = std::string(expected),
                      .found = printable(entry.dtype_name)});
}

template <typename T>
std::vector<int64_t> widened(std::span<const std::byte> bytes) {
  std::vector<int64_t> values(bytes.size() / sizeof(T));
  for (size_t i = 0; i < values.size(); ++i) {
    T value;
    std::memcpy(&value, bytes.data() + i * sizeof(T), sizeof(T));
    values[i] = value;
  }
  return values;
}

}  // namespace

const CatalogEntry& require(const Catalog& catalog, std::string_view name) {
  if (const CatalogEntry* entry = catalog.find(name)) return *entry;
  throw Error(Problem{.kind = ErrorKind::kMissingTensor,
                      .file = catalog.source,
                      .tensor = std::string(name),
                      .message = fmt::format("{} is missing.", printable(name))});
}

std::vector<int64_t> read_integers(const Catalog& catalog, const CatalogEntry& entry) {
  const std::span<const std::byte> bytes = catalog.bytes(entry);
  std::vector<int64_t> values;
  if (entry.dtype_known && entry.dtype == DType::kI16) {
    values = widened<int16_t>(bytes);
  } else if (entry.dtype_known && entry.dtype == DType::kI32) {
    values = widened<int32_t>(bytes);
  } else if (entry.dtype_known && entry.dtype == DType::kI64) {
    values = widened<int64_t>(bytes);
  } else {
    refuse_dtype(catalog, entry, "I16, I32 or I64");
  }
  catalog.throw_if_damaged(entry);
  return values;
}

std::vector<float> read_floats(const Catalog& catalog, const CatalogEntry& entry) {
  const bool is_float = entry.dtype_known && (entry.dtype == DType::kBf16 || entry.dtype == DType::kF16 ||
                                              entry.dtype == DType::kF32);
  if (!is_float) refuse_dtype(catalog, entry, "BF16, F16 or F32");
  std::vector<float> values(entry.bytes / size_bytes(entry.dtype));
  convert(entry.dtype, catalog.bytes(entry).data(), DType::kF32, reinterpret_cast<std::byte*>(values.data()),
          static_cast<int64_t>(values.size()));
  catalog.throw_if_damaged(entry);
  return values;
}

}  // namespace fulgur
