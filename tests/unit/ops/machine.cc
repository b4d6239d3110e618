#include "unit/ops/machine.h"

#include <gtest/gtest.h>

#include <cmath>
#include <sstream>

namespace fulgur::test {
namespace {

constexpr int64_t kPadding = 3;

}  // namespace

Machine::Machine(const Backend& backend) : backend_(backend) {
  for (int threads = 1; threads <= kMostThreads; ++threads) {
    teams_.push_back(std::make_unique<ThreadTeam>(threads));
    arenas_.push_back(std::make_unique<Arena>(backend));
    contexts_.push_back({.backend = &backend, .team = teams_.back().get(), .arena = arenas_.back().get()});
  }
}

Buffer& Machine::add(DType dtype, int64_t rows, int64_t cols, Buffer::Layout layout) {
  buffers_.push_back(std::make_unique<Buffer>(backend_, dtype, rows, cols, layout));
  return *buffers_.back();
}

Buffer& Machine::add_weight(Random& random, WeightForm form, int64_t rows, int64_t cols) {
  return add(stored_dtype(form), rows, cols, {.shift = 1})
      .fill_normal(random, 1 / std::sqrt(static_cast<double>(cols)));
}

Buffer& Machine::add_gain(Random& random, WeightForm form, int64_t cols) {
  return add(stored_dtype(form), 1, cols, {.shift = 1}).fill_normal(random, 0.3, 1);
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
