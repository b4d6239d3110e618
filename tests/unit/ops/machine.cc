#include "unit/ops/machine.h"

#include <gtest/gtest.h>

#include <cmath>
#include <sstream>

namespace fulgur::test {
namespace {

constexpr int64_t kPadding = 3;
constexpr int64_t kBlock = 128;

/// Mostly codes of 2^-3 to 2^3, now and then any but NaN.
int64_t random_e4m3(Random& random) {
  const int64_t sign = random.integer(0, 1) * 0x80;
  if (random.integer(0, 31) == 0) return sign + random.integer(0, 0x3f);
  return sign + random.integer(0x20, 0x4f);
}

}  // namespace

Machine::Machine(const Backend& backend) : backend_(backend) {
  for (int threads = 1; threads <= kMostThreads; ++threads) {
    teams_.push_back(std::make_unique<ThreadTeam>(threads));
    arenas_.push_back(std::make_unique<Arena>(backend));
    contexts_.push_back({.backend = &backend,
                         .team = teams_.back().get(),
                         .stream = stream_for(backend, threads),
                         .arena = arenas_.back().get()});
  }
}

Buffer& Machine::add(DType dtype, int64_t rows, int64_t cols, Buffer::Layout layout) {
  buffers_.push_back(std::make_unique<Buffer>(backend_, dtype, rows, cols, layout));
  return *buffers_.back();
}

WeightBuffer& Machine::add_weight(Random& random, WeightForm form, int64_t rows, int64_t cols, bool aligned) {
  const double deviation = 1 / std::sqrt(static_cast<double>(cols));
  if (form == WeightForm::kNvfp4 && cols % kNvfp4Group != 0) form = WeightForm::kBf16;
  Weight weight{.form = form, .rows = rows, .cols = cols};
  Buffer* scales = nullptr;
  Buffer& data = add(stored_dtype(form), rows,
                     row_bytes(form, cols) / static_cast<int64_t>(size_bytes(stored_dtype(form))),
                     {.shift = aligned ? 0 : 1});
  if (is_plain(form)) {
    data.fill_normal(random, deviation);
  } else if (form == WeightForm::kFp8) {
    data.fill([&](int64_t, int64_t) { return random_e4m3(random); });
    weight.first_row = aligned ? 0 : random.integer(0, 1) * random.integer(1, 2 * kBlock);
    const int64_t whole_rows = weight.first_row + rows + random.integer(0, 3);
    const auto kind = aligned ? 2 : random.integer(0, 3);
    weight.block_rows = kind == 0 ? 1 : kind == 1 ? whole_rows : kBlock;
    weight.block_cols = kind < 2 ? cols : kBlock;
    scales = &add(DType::kF32, (whole_rows + weight.block_rows - 1) / weight.block_rows,
                  (cols + weight.block_cols - 1) / weight.block_cols, {.shift = 1});
    scales->fill([&](int64_t, int64_t) { return deviation * std::exp2(random.normal(0.5) - 1.5); });
  } else {
    data.fill([&](int64_t, int64_t) { return random.integer(0, 255); });
    scales = &add(DType::kF8E4M3, rows, cols / kNvfp4Group, {.shift = 1});
    scales->fill([&](int64_t, int64_t) { return static_cast<double>(random.integer(0x30, 0x47)); });
    weight.global = deviation / 4;  // not a number of f32
  }
  weights_.push_back(std::make_unique<WeightBuffer>(weight, data, scales));
  return *weights_.back();
}

Buffer& Machine::add_gain(Random& random, WeightForm form, int64_t cols) {
  return add(stored_dtype(plain_beside(form)), 1, cols, {.shift = 1}).fill_normal(random, 0.3, 1);
}

Buffer& Machine::add_output(DType dtype, int64_t rows, int64_t cols) {
  return add(dtype, rows, cols, {.padding = kPadding}).is_output();
}

void Machine::upload() {
  for (const auto& buffer : buffers_) buffer->upload();
}

void Machine::download() {
  for (const auto& buffer : buffers_) buffer->download();
}

void Machine::expect_no_trespass() const {
  for (const auto& buffer : buffers_) EXPECT_EQ(buffer->trespass(), "");
}

std::vector<std::vector<std::byte>> Machine::snapshot() const {
  std::vector<std::vector<std::byte>> bytes;
  for (const auto& buffer : buffers_) bytes.push_back(buffer->bytes_after());
  return bytes;
}

void expect_close(const reference::Table& expected, const Buffer& actual, const std::string& what) {
  ASSERT_EQ(expected.rows, actual.rows()) << what;
  ASSERT_EQ(expected.cols, actual.cols()) << what;
  expect_close(
      expected, [&](int64_t r, int64_t c) { return actual.after(r, c); }, what);
}

void expect_close(const reference::Table& expected, const std::function<double(int64_t, int64_t)>& actual,
                  const std::string& what) {
  constexpr int kMostShown = 5;
  int64_t wrong = 0;
  std::string shown;
  for (int64_t r = 0; r < expected.rows; ++r) {
    for (int64_t c = 0; c < expected.cols; ++c) {
      const reference::Real& e = expected.at(r, c);
      const double a = actual(r, c);
      ASSERT_TRUE(std::isfinite(e.value) && std::isfinite(e.error))
          << what << " [" << r << ", " << c << "]: the oracle itself";
      if (std::abs(a - e.value) <= e.error) continue;
      if (++wrong > kMostShown) continue;
      std::ostringstream line;
      line.precision(9);
      line << "\n  [" << r << ", " << c << "] is " << a << ", should be " << e.value << " +- " << e.error;
      shown += line.str();
    }
  }
  EXPECT_EQ(wrong, 0) << what << ": " << wrong << " of " << expected.rows << " x " << expected.cols << shown;
}

}  // namespace fulgur::test
