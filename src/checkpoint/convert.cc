#include "checkpoint/convert.h"

#include <fmt/format.h>

#include <cstring>
#include <stdexcept>

namespace fulgur {
namespace {

template <typename T>
T load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

template <typename From, typename To, typename Rule>
void convert_each(const std::byte* from, std::byte* to, int64_t count, Rule rule) {
  for (int64_t i = 0; i < count; ++i) {
    const To value = rule(load<From>(from + static_cast<size_t>(i) * sizeof(From)));
    std::memcpy(to + static_cast<size_t>(i) * sizeof(To), &value, sizeof(To));
  }
}

}  // namespace

bool can_convert(DType from, DType to) {
  const bool from_float = from == DType::kBf16 || from == DType::kF16 || from == DType::kF32;
  return from == to || (from_float && (to == DType::kBf16 || to == DType::kF32));
}

void convert(DType from_dtype, const std::byte* from, DType to_dtype, std::byte* to, int64_t count) {
  if (from_dtype == to_dtype) {
    std::memcpy(to, from, static_cast<size_t>(count) * size_bytes(from_dtype));
  } else if (from_dtype == DType::kBf16 && to_dtype == DType::kF32) {
    convert_each<Bf16, float>(from, to, count, [](Bf16 value) { return to_float(value); });
  } else if (from_dtype == DType::kF16 && to_dtype == DType::kF32) {
    convert_each<uint16_t, float>(from, to, count, half_to_float);
  } else if (from_dtype == DType::kF32 && to_dtype == DType::kBf16) {
    convert_each<float, Bf16>(from, to, count, to_bf16);
  } else if (from_dtype == DType::kF16 && to_dtype == DType::kBf16) {
    convert_each<uint16_t, Bf16>(from, to, count, [](uint16_t bits) { return to_bf16(half_to_float(bits)); });
  } else {
    throw std::logic_error(fmt::format("no conversion from {} to {}", name(from_dtype), name(to_dtype)));
  }
}

}  // namespace fulgur
