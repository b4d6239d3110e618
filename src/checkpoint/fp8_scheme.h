#pragma once

namespace fulgur {

/// Which scales FP8 weights may have, by what a checkpoint's quantization fields declare
/// (docs/spec/checkpoints.md, 3.3, 3.5 and 3.8). That a weight is FP8 at all is read off its tensor. The
/// shapes exclude one another: a grid has two dimensions, a single scale one or none.
struct Fp8Scheme {
  bool block_scales = true;    // [ceil(n / 128), ceil(m / 128)]
  bool row_scales = false;     // [n, 1]
  bool tensor_scales = false;  // [] or [1]
  bool u8_scales = false;      // scale_fmt "ue8m0": U8 is another name for F8_E8M0
};

}  // namespace fulgur
