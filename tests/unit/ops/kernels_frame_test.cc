#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <string>
#include <vector>

#include "base/error.h"
#include "kernels_support.h"
#include "ops/backend.h"
#include "ops/embed.h"
#include "ops/norm.h"

namespace fulgur {
namespace {

using test::Machine;
using test::random_values;
using test::runnable_isas;
using test::Values;

/// Sets FULGUR_ISA, and puts it back.
class IsaVariable {
 public:
  explicit IsaVariable(const char* value) {
    if (const char* old = std::getenv("FULGUR_ISA"); old != nullptr) old_ = old;
    setenv("FULGUR_ISA", value, 1);
  }
  ~IsaVariable() {
    if (old_.empty())
      unsetenv("FULGUR_ISA");
    else
      setenv("FULGUR_ISA", old_.c_str(), 1);
  }

 private:
  std::string old_;
};

TEST(CpuBackend, EveryInstructionSetThatWasBuiltHasItsTable) {
  for (const Isa isa : kAllIsas) {
    EXPECT_EQ(parse_isa(name(isa)), isa);
    if (cpu_backend(isa) == nullptr) {
      EXPECT_FALSE(isa_supported(isa)) << "built without it";
    } else {
      EXPECT_EQ(cpu_backend(isa)->name, "cpu " + std::string(name(isa)));
    }
  }
}

TEST(CpuBackend, TakesTheInstructionSetThatFulgurIsaNames) {
  for (const Isa isa : runnable_isas()) {
    const IsaVariable variable(std::string(name(isa)).c_str());
    EXPECT_EQ(choose_isa(), isa);
  }
}

TEST(CpuBackend, TakesTheWidestThatIsBuiltOfThoseThatTheCpuRunsWhateverElseIsBuilt) {
  struct Case {
    std::vector<Isa> built;
    Isa runs;  // with all before it
    Isa chosen;
  };
  for (const auto& [built, runs, chosen] : {Case{{Isa::kAvx2}, Isa::kAvx512, Isa::kAvx2},
                                            {{Isa::kAvx512}, Isa::kAvx512Bf16, Isa::kAvx512},
                                            {{Isa::kAmx}, Isa::kAmx, Isa::kAmx},
                                            {{Isa::kScalar, Isa::kAmx}, Isa::kAmx, Isa::kAmx},
                                            {{Isa::kScalar, Isa::kAmx}, Isa::kAvx512, Isa::kScalar},
                                            {{Isa::kAvx512, Isa::kAvx2}, Isa::kAvx2, Isa::kAvx2}}) {
    const auto supported = [&](Isa isa) { return isa <= runs && std::ranges::count(built, isa) > 0; };
    EXPECT_EQ(choose_isa(supported, nullptr), chosen);
  }
  EXPECT_THROW(choose_isa([](Isa) { return false; }, nullptr), Error);
}

/// A build for avx512 alone ran scalar: whether the CPU has it was said to depend on avx2's being built.
TEST(CpuBackend, KnowsWhatTheCpuRunsWhateverIsBuilt) {
  EXPECT_TRUE(cpu_runs(Isa::kScalar));
  const bool avx2 =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  EXPECT_EQ(cpu_runs(Isa::kAvx2), avx2);
  EXPECT_EQ(cpu_runs(Isa::kAvx512), avx2 && avx512);
  for (const Isa isa : kAllIsas) {
    EXPECT_EQ(isa_supported(isa), cpu_backend(isa) != nullptr && cpu_runs(isa)) << name(isa);
  }
}

TEST(CpuBackend, RefusesAnUnknownInstructionSetAndListsWhatThisCpuHas) {
  const IsaVariable variable("avx3");
  try {
    choose_isa();
    FAIL() << "avx3 was taken";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kDevice);
    EXPECT_NE(std::string(error.what()).find("avx3"), std::string::npos);
    EXPECT_NE(std::string(error.what()).find("scalar"), std::string::npos);
  }
}

TEST(Norm, GivesTheSameBitsForOneRowAndManyAndAnyThreads) {
  for (const Isa isa : runnable_isas()) {
    for (const int64_t width : {16, 28, 160, 256}) {
      Values x = random_values(DType::kF32, 37, width, 1);
      Values gain = random_values(DType::kBf16, 1, width, 2);
      Values all = random_values(DType::kBf16, 37, width, 3);
      Values one = all;
      Machine machine(isa, 3);
      run(machine.context, RmsNorm{{x.wide.data(), 37, width}, gain.weight(), 1e-6F, all.operand()});
      Machine alone(isa, 1);
      for (int64_t t = 0; t < 37; ++t) {
        Operand out = one.operand();
        out.data = out.row<Bf16>(t);
        out.rows = 1;
        run(alone.context, RmsNorm{{x.wide.data() + t * width, 1, width}, gain.weight(), 1e-6F, out});
      }
      EXPECT_EQ(all.narrow, one.narrow) << name(isa) << " width " << width;
    }
  }
}

TEST(Norm, AddsTheDeltaIntoTheResidualFirst) {
  for (const Isa isa : runnable_isas()) {
    constexpr int64_t kWidth = 176;
    Values sum = random_values(DType::kF32, 5, kWidth, 1);
    Values delta = random_values(DType::kF32, 5, kWidth, 2);
    Values gain = random_values(DType::kF32, 1, kWidth, 3);
    Values out = random_values(DType::kF32, 5, kWidth, 4);
    const Values before = sum;
    Machine machine(isa, 2);
    run(machine.context, AddRmsNorm{{sum.wide.data(), 5, kWidth},
                                    {delta.wide.data(), 5, kWidth},
                                    gain.weight(),
                                    1e-5F,
                                    out.operand()});
    for (int64_t t = 0; t < 5; ++t) {
      double squares = 0;
      for (int64_t i = 0; i < kWidth; ++i) {
        EXPECT_EQ(sum.at(t, i), before.at(t, i) + delta.at(t, i));
        squares += double{sum.at(t, i)} * sum.at(t, i);
      }
      const double scale = 1 / std::sqrt(squares / kWidth + 1e-5);
      for (int64_t i = 0; i < kWidth; ++i) {
        const double expected = gain.at(0, i) * scale * sum.at(t, i);
        // The scale's error is at most a few roundings of a sum of kWidth positive terms in lanes of at
        // most 16.
        EXPECT_NEAR(out.at(t, i), expected, std::abs(expected) * 32 * 0x1p-24);
      }
    }
  }
}

TEST(Embed, WidensTheRowsOfTheTokens) {
  for (const Isa isa : runnable_isas()) {
    for (const DType form : {DType::kBf16, DType::kF16, DType::kF32}) {
      Values table = random_values(form, 11, 28, 5);
      Values hidden = random_values(DType::kF32, 3, 28, 6);
      const int32_t tokens[] = {10, 0, 7};
      TokenBatch batch;
      batch.num_tokens = 3;
      batch.token = tokens;
      Machine machine(isa, 2);
      run(machine.context, Embed{batch, table.weight(), {hidden.wide.data(), 3, 28}});
      for (int t = 0; t < 3; ++t) {
        for (int i = 0; i < 28; ++i) EXPECT_EQ(hidden.at(t, i), table.at(tokens[t], i));
      }
    }
  }
}

}  // namespace
}  // namespace fulgur
