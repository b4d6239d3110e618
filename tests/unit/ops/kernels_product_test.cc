#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <tuple>
#include <vector>

#include "kernels_support.h"
#include "ops/linear.h"

namespace fulgur {
namespace {

using test::Machine;
using test::random_values;
using test::runnable_isas;
using test::Values;

struct Shape {
  int64_t tokens;
  int64_t cols;
  int64_t rows;
};

/// Odd widths, tails of every kind, one and several blocks of k.
constexpr Shape kShapes[] = {{1, 256, 512}, {7, 256, 68},  {16, 160, 33},   {40, 28, 192},
                             {3, 17, 5},    {5, 2050, 19}, {130, 1040, 37}, {1, 1, 1}};

std::string describe(Isa isa, DType x, DType w, const Shape& s) {
  return std::string(name(isa)) + " x " + std::string(name(x)) + " w " + std::string(name(w)) + " " +
         std::to_string(s.tokens) + "x" + std::to_string(s.cols) + "x" + std::to_string(s.rows);
}

template <typename Body>
void for_each_case(Body body) {
  for (const Isa isa : runnable_isas()) {
    for (const DType x : {DType::kBf16, DType::kF32}) {
      for (const DType w : {DType::kBf16, DType::kF16, DType::kF32}) {
        for (const Shape& shape : kShapes) {
          SCOPED_TRACE(describe(isa, x, w, shape));
          body(isa, x, w, shape);
        }
      }
    }
  }
}

Values product(Isa isa, int threads, Values& x, Values& w, DType out) {
  Values y = random_values(out, x.rows, w.rows, 9);
  Machine machine(isa, threads);
  run(machine.context, Linear{x.operand(), w.weight(), y.operand()});
  return y;
}

TEST(Linear, IsTheProductToWithinTheRoundingOfItsSums) {
  for_each_case([](Isa isa, DType x_type, DType w_type, const Shape& s) {
    Values x = random_values(x_type, s.tokens, s.cols, 1);
    Values w = random_values(w_type, s.rows, s.cols, 2);
    const Values y = product(isa, 2, x, w, DType::kF32);
    for (int64_t t = 0; t < s.tokens; ++t) {
      for (int64_t o = 0; o < s.rows; ++o) {
        double exact = 0;
        double magnitude = 0;
        for (int64_t k = 0; k < s.cols; ++k) {
          const double term = double{x.at(t, k)} * w.at(o, k);
          exact += term;
          magnitude += std::abs(term);
        }
        // n roundings of at most eps/2 of the sum of magnitudes each, two a term where product and sum round
        // apart.
        ASSERT_NEAR(y.at(t, o), exact, magnitude * static_cast<double>(2 * s.cols) * 0x1p-24 + 1e-30)
            << t << ", " << o;
      }
    }
  });
}

TEST(Linear, GivesTheSameBitsForOneRowAndManyAndAnyThreads) {
  for_each_case([](Isa isa, DType x_type, DType w_type, const Shape& s) {
    Values x = random_values(x_type, s.tokens, s.cols, 1);
    Values w = random_values(w_type, s.rows, s.cols, 2);
    const Values one_thread = product(isa, 1, x, w, DType::kF32);
    for (const int threads : {2, 3, 4}) {
      ASSERT_EQ(product(isa, threads, x, w, DType::kF32).wide, one_thread.wide) << threads << " threads";
    }
    Machine machine(isa, 1);
    for (const int64_t rows : {1, 2, 3, 4, 5, 6, 7, 11, 17}) {
      Values chunked = random_values(DType::kF32, s.tokens, s.rows, 3);
      for (int64_t t = 0; t < s.tokens; t += rows) {
        Operand part = x.operand();
        part.data = x_type == DType::kF32 ? static_cast<void*>(part.row<float>(t)) : part.row<Bf16>(t);
        part.rows = std::min(rows, s.tokens - t);
        const Operand out{chunked.wide.data() + t * s.rows, DType::kF32, part.rows, s.rows, s.rows};
        run(machine.context, Linear{part, w.weight(), out});
      }
      ASSERT_EQ(chunked.wide, one_thread.wide) << rows << " rows at once";
    }
  });
}

TEST(Linear, GivesTheSameBitsForAnyRangeOfOutputs) {
  for_each_case([](Isa isa, DType x_type, DType w_type, const Shape& s) {
    Values x = random_values(x_type, s.tokens, s.cols, 1);
    Values w = random_values(w_type, s.rows, s.cols, 2);
    const Values whole = product(isa, 1, x, w, DType::kF32);
    Values parts = random_values(DType::kF32, s.tokens, s.rows, 3);
    const int64_t cut = s.rows / 3;
    Machine machine(isa, 1);
    for (const auto& [first, count] : {std::pair{int64_t{0}, cut}, std::pair{cut, s.rows - cut}}) {
      if (count == 0) continue;
      const Operand out{parts.wide.data() + first, DType::kF32, s.tokens, count, s.rows};
      run(machine.context, Linear{x.operand(), w.weight().take_rows(first, count), out});
    }
    ASSERT_EQ(parts.wide, whole.wide);
  });
}

TEST(Linear, RoundsToBf16Once) {
  for_each_case([](Isa isa, DType x_type, DType w_type, const Shape& s) {
    Values x = random_values(x_type, s.tokens, s.cols, 1);
    Values w = random_values(w_type, s.rows, s.cols, 2);
    const Values wide = product(isa, 1, x, w, DType::kF32);
    const Values narrow = product(isa, 1, x, w, DType::kBf16);
    for (size_t i = 0; i < wide.wide.size(); ++i)
      ASSERT_EQ(narrow.narrow[i], to_bf16(wide.wide[i]).bits) << i;
  });
}

TEST(LmHead, TakesTheWantedRowsInTheirOrder) {
  for (const Isa isa : runnable_isas()) {
    for (const DType dtype : {DType::kBf16, DType::kF32}) {
      Values hidden = random_values(dtype, 9, 144, 1);
      Values w = random_values(DType::kBf16, 192, 144, 2);
      const Values all = product(isa, 1, hidden, w, DType::kF32);
      const int32_t rows[] = {7, 0, 7};
      Values logits = random_values(DType::kF32, 3, 192, 3);
      Machine machine(isa, 2);
      run(machine.context, LmHead{hidden.operand(), rows, w.weight(), {logits.wide.data(), 3, 192}});
      for (int i = 0; i < 3; ++i) {
        for (int o = 0; o < 192; ++o) ASSERT_EQ(logits.at(i, o), all.at(rows[i], o)) << name(isa);
      }
    }
  }
}

}  // namespace
}  // namespace fulgur
