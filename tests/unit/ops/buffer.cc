#include "unit/ops/buffer.h"

#include <bit>
#include <cmath>

#include "base/dtype.h"

namespace fulgur::test {
namespace {

constexpr size_t kGuardBytes = 256;
constexpr std::byte kPattern{0xff};  // NaN as bf16, f16 and f32; -1 as an integer
constexpr std::byte kIntegerPattern{0x7b};

bool is_integer(DType dtype) { return dtype == DType::kI32 || dtype == DType::kU32; }

/// Round to nearest, ties to even; finite values of the normal and subnormal range.
uint16_t to_half(double x) {
  constexpr int kSmallestExponent = -14;
  constexpr int kMantissaBits = 10;
  const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
  if (x == 0) return sign;
  const int exponent = std::max(std::ilogb(x), kSmallestExponent);
  const double ulp = std::ldexp(1.0, exponent - kMantissaBits);
  const auto units = static_cast<int>(std::nearbyint(std::abs(x) / ulp));  // 2^10 and more: a normal number
  return static_cast<uint16_t>(sign | (((exponent - kSmallestExponent) << kMantissaBits) + units));
}

}  // namespace

Buffer::Buffer(const Backend& backend, DType dtype, int64_t rows, int64_t cols, Layout layout)
    : backend_(backend), dtype_(dtype), rows_(rows), cols_(cols), stride_(cols + layout.padding) {
  const size_t width = size_bytes(dtype);
  start_ = kGuardBytes + static_cast<size_t>(layout.shift) * width;
  const size_t bytes = start_ + static_cast<size_t>(rows * stride_) * width + kGuardBytes;
  before_.assign(bytes, is_integer(dtype) ? kIntegerPattern : kPattern);
  writable_.assign(bytes, false);
  device_ = static_cast<std::byte*>(backend.allocate(bytes));
}

Buffer::~Buffer() { backend_.release(device_); }

size_t Buffer::offset(int64_t r, int64_t c) const {
  return start_ + static_cast<size_t>(r * stride_ + c) * size_bytes(dtype_);
}

Buffer& Buffer::set(int64_t r, int64_t c, double value) {
  const auto store = [&](auto bits) { std::memcpy(before_.data() + offset(r, c), &bits, sizeof bits); };
  switch (dtype_) {
    case DType::kBf16:
      store(to_bf16(static_cast<float>(value)));
      break;
    case DType::kF16:
      store(to_half(value));
      break;
    case DType::kF32:
      store(static_cast<float>(value));
      break;
    case DType::kU8:
    case DType::kF8E4M3:  // a code
      store(static_cast<uint8_t>(value));
      break;
    case DType::kI32:
      store(static_cast<int32_t>(value));
      break;
    case DType::kU32:
      store(static_cast<uint32_t>(value));
      break;
    default:
      std::abort();
  }
  return *this;
}

Buffer& Buffer::fill_normal(Random& random, double deviation, double mean) {
  return fill([&](int64_t, int64_t) { return mean + random.normal(deviation); });
}

Buffer& Buffer::may_change(const std::function<bool(int64_t, int64_t)>& writable) {
  for (int64_t r = 0; r < rows_; ++r) {
    for (int64_t c = 0; c < cols_; ++c) {
      if (!writable(r, c)) continue;
      for (size_t i = 0; i < size_bytes(dtype_); ++i) writable_[offset(r, c) + i] = true;
    }
  }
  return *this;
}

Buffer& Buffer::is_output() {
  return may_change([](int64_t, int64_t) { return true; });
}

void Buffer::upload() { backend_.upload(device_, before_.data(), before_.size()); }

void Buffer::download() {
  after_.resize(before_.size());
  backend_.download(after_.data(), device_, after_.size());
}

std::string Buffer::trespass() const {
  if (std::memcmp(before_.data(), after_.data(), before_.size()) == 0) return "";  // an input, as a rule
  for (size_t i = 0; i < before_.size(); ++i) {
    if (writable_[i] || before_[i] == after_[i]) continue;
    const auto element =
        (static_cast<int64_t>(i) - static_cast<int64_t>(start_)) / static_cast<int64_t>(size_bytes(dtype_));
    return "wrote to byte " + std::to_string(static_cast<int64_t>(i) - static_cast<int64_t>(start_)) +
           " (row " + std::to_string(element / stride_) + ", column " + std::to_string(element % stride_) +
           ") of a matrix of " + std::to_string(rows_) + " x " + std::to_string(cols_) +
           ", which isn't its to write";
  }
  return "";
}

double Buffer::read(const std::vector<std::byte>& bytes, int64_t r, int64_t c) const {
  const std::byte* at = bytes.data() + offset(r, c);
  const auto load = [&](auto bits) {
    std::memcpy(&bits, at, sizeof bits);
    return bits;
  };
  switch (dtype_) {
    case DType::kBf16:
      return to_float(load(Bf16{}));
    case DType::kF16:
      return half_to_float(load(uint16_t{}));
    case DType::kF32:
      return load(float{});
    case DType::kU8:
    case DType::kF8E4M3:  // a code
      return load(uint8_t{});
    case DType::kI32:
      return load(int32_t{});
    case DType::kU32:
      return load(uint32_t{});
    default:
      std::abort();
  }
}

double Buffer::after(int64_t r, int64_t c) const { return read(after_, r, c); }
double Buffer::before(int64_t r, int64_t c) const { return read(before_, r, c); }

void* Buffer::data(Side side, int64_t first_row) const {
  std::byte* block = side == Side::kHost ? const_cast<std::byte*>(before_.data()) : device_;
  return block + offset(first_row, 0);
}

Operand Buffer::operand(Side side, int64_t first, int64_t count) const {
  return {data(side, first), dtype_, count < 0 ? rows_ : count, cols_, stride_};
}

Weight Buffer::weight(Side side) const { return {plain_form(dtype_).value(), rows_, cols_, data(side)}; }

}  // namespace fulgur::test
