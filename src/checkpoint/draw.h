#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "base/dtype.h"

namespace fulgur {

/// How the values of a tensor without a file are drawn at random: what stands in a catalog where a file's
/// bytes would. Every element depends on the key and its own index alone, so any part of a tensor can be
/// drawn by any thread and is the same bytes each time. None is ever NaN or infinite.
struct Draw {
  enum class Kind : uint8_t {
    kAround,       // BF16, F32: `center` give or take `width`, the sum of two uniform numbers
    kFp8Codes,     // F8_E4M3: codes of numbers so distributed around 0; fp8_codes_rms() is their size
    kFp4Codes,     // U8: two e2m1 codes a byte, each as likely as any other; fp4_codes_rms()
    kBlockScales,  // F32: from half of `center` to one and a half times that
    kPowerScales,  // F32: `center`, a power of two, or half of it
    kGroupScales,  // F8_E4M3: the largest sixteen scales; group_scales_rms()
    kConstant,     // F32: `center`
  };
  Kind kind = Kind::kConstant;
  float center = 0;
  float width = 0;
  uint64_t key = 0;
};

/// The key of a tensor under a seed.
uint64_t draw_key(uint64_t seed, std::string_view tensor);

/// kAround with a standard deviation.
Draw around(float center, float deviation, uint64_t key);

/// Draws elements from the first one on: `to` is whole elements of the dtype (FP4: bytes).
void draw(const Draw& how, DType dtype, int64_t first, std::span<std::byte> to);

/// The root of the mean square of what is drawn.
float fp8_codes_rms();
float fp4_codes_rms();
float group_scales_rms();

}  // namespace fulgur
