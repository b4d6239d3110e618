#include "property/any_checkpoint.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <cstdlib>
#include <ostream>
#include <stdexcept>

namespace fulgur::property {
namespace {

/// For `make check`.
constexpr const char* kQuickRun = "seed=20261127 max_success=60";

rc::Gen<Draw> any_draw() {
  return rc::gen::exec([] {
    const Pick pick = [](int64_t least, int64_t most) {
      return *rc::gen::resize(rc::kNominalSize, rc::gen::inRange(least, most + 1));
    };
    Draw draw;
    draw.model = draw_model(pick);
    draw.store = draw_store(pick, draw.model);
    draw.shards = draw_shards(pick);
    draw.other_shards = draw_shards(pick);
    draw.damage = draw_damage(pick);
    draw.conversion = {.target = pick(0, 4), .scales = pick(0, 3), .spelling = pick(0, 2)};
    return draw;
  });
}

}  // namespace

void showValue(const Draw& draw, std::ostream& out) {
  constexpr std::string_view kTargets[] = {"no other form", "bf16", "fp8-block", "nvfp4-modelopt",
                                           "nvfp4-ct"};
  constexpr std::string_view kScales[] = {"f32", "f32-pow2", "e8m0", "as declared"};
  constexpr std::string_view kSpellings[] = {"as stored", "fused", "separate"};
  const ConversionDraw& to = draw.conversion;
  out << in_words(draw.model) << '\n'
      << in_words(draw.store) << '\n'
      << in_words(draw.shards) << "\nor " << in_words(draw.other_shards)
      << fmt::format("\nconverted to {} (scales {}), the projection {}", kTargets[to.target],
                     kScales[to.scales], kSpellings[to.spelling]);
}

void expect_holds(const std::function<void(const Draw&)>& property) {
  setenv("RC_PARAMS", kQuickRun, /*overwrite=*/0);
  const std::string name = testing::UnitTest::GetInstance()->current_test_info()->name();
  EXPECT_TRUE(rc::check(name, [&] { property(*any_draw()); }));
}

void fail(const std::string& why) { throw std::runtime_error(why); }

}  // namespace fulgur::property
