#pragma once

#include <cstdint>
#include <string>

namespace fulgur::property {

// The formats from their definitions in docs/spec/checkpoints.md, encoding as well as decoding: nothing here
// is of src/.

double decode_e4m3(uint8_t code);
double decode_e2m1(int code);
/// The code whose value is nearest; the value's sign is kept, zero's too.
uint8_t encode_e4m3(double value);
uint8_t encode_e2m1(double value);
/// The smallest scale of a format that is at least `value`.
uint8_t encode_e4m3_above(double value);
uint8_t encode_e8m0_above(double value);
/// The nearest value of a plain type, appended to `data` as it is stored. Returns it.
double put_f32(std::string& data, double value);
double put_bf16(std::string& data, double value);
double put_f16(std::string& data, double value);

}  // namespace fulgur::property
