#include "model/rope.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "base/json.h"

namespace fulgur {
namespace {

Config read(const std::string& file) {
  const auto path = std::filesystem::path(FULGUR_SOURCE_DIR) / "models/configs" / file;
  return parse_config(read_json(path, ErrorKind::kBadConfig).dump(), "config.json");
}

// The figures of docs/spec/model.md, section 2.
TEST(Rope, StretchesDeepseeksFrequenciesBetweenPairs10And23) {
  const Config config = read("deepseek-v3.2.json");
  const YarnRamp ramp = yarn_ramp(config.rope, 64);
  EXPECT_EQ(ramp.lo, 10);
  EXPECT_EQ(ramp.hi, 23);
  const std::vector<double> frequencies = rope_frequencies(config.rope, 64);
  ASSERT_EQ(frequencies.size(), 32U);
  for (size_t j = 0; j < frequencies.size(); ++j) {
    const double plain = std::pow(10000.0, -static_cast<double>(j) / 32);
    const double stretched = j <= 10 ? 0 : j >= 23 ? 1 : (static_cast<double>(j) - 10) / 13;
    EXPECT_DOUBLE_EQ(frequencies[j], plain * (1 - stretched) + plain / 40 * stretched) << j;
  }
  EXPECT_EQ(rope_attention_factor(config.rope), 1);
}

TEST(Rope, ScalesDeepseeksSoftmaxByTheSquareOfM) {
  const Config config = read("deepseek-v3.2.json");
  EXPECT_NEAR(config.softmax_scale(), 0.1352337788, 1e-10);
  EXPECT_NEAR(std::sqrt(config.softmax_scale() * std::sqrt(192.0)), 1.3688879454, 1e-10);
}

TEST(Rope, LeavesGlmUnscaled) {
  const Config config = read("glm-5.json");
  EXPECT_DOUBLE_EQ(config.softmax_scale(), 0.0625);
  EXPECT_EQ(rope_attention_factor(config.rope), 1);
  const std::vector<double> frequencies = rope_frequencies(config.rope, 64);
  EXPECT_EQ(frequencies[0], 1);
  EXPECT_DOUBLE_EQ(frequencies[31], std::pow(1e6, -62.0 / 64));
}

TEST(Rope, TakesTheAttentionFactorFromTheConfigElseFromTheMscales) {
  RopeConfig rope{.type = RopeConfig::Type::kYarn, .factor = 40, .original_max_position_embeddings = 4096};
  const double m1 = 0.1 * std::log(40.0) + 1;
  EXPECT_DOUBLE_EQ(rope_attention_factor(rope), m1);  // neither mscale
  rope.mscale = 0.5;
  EXPECT_DOUBLE_EQ(rope_attention_factor(rope), m1);  // one of two
  rope.mscale_all_dim = 1;
  EXPECT_DOUBLE_EQ(rope_attention_factor(rope), (0.05 * std::log(40.0) + 1) / m1);
  rope.attention_factor = 1.5;
  EXPECT_EQ(rope_attention_factor(rope), 1.5);
  rope.type = RopeConfig::Type::kDefault;
  EXPECT_EQ(rope_attention_factor(rope), 1);
}

TEST(Rope, ChangesNothingByAYarnFactorOfOne) {
  RopeConfig yarn{.type = RopeConfig::Type::kYarn, .original_max_position_embeddings = 4096};
  const std::vector<double> plain = rope_frequencies(RopeConfig{}, 64);
  const std::vector<double> stretched = rope_frequencies(yarn, 64);
  for (size_t j = 0; j < plain.size(); ++j) EXPECT_DOUBLE_EQ(stretched[j], plain[j]);
  EXPECT_EQ(rope_attention_factor(yarn), 1);
}

TEST(Rope, StaysFiniteForEveryRampThatAConfigMayAsk) {
  for (const double theta : {std::nextafter(1.0, 2.0), 2.0, 1e4, 1e30}) {
    for (const int64_t original : {1, 4096, 1 << 24}) {
      for (const double beta : {1e-6, 1.0, 1e6}) {
        for (const int64_t dim : {2, 64, 4096}) {
          const RopeConfig rope{.type = RopeConfig::Type::kYarn,
                                .theta = theta,
                                .factor = 1e6,
                                .original_max_position_embeddings = original,
                                .beta_fast = beta,
                                .beta_slow = beta};
          for (const double frequency : rope_frequencies(rope, dim)) {
            ASSERT_TRUE(std::isfinite(frequency)) << theta << " " << original << " " << beta << " " << dim;
          }
        }
      }
    }
  }
}

TEST(Rope, TabulatesAnglesInDouble) {
  Config config = read("glm-5.json");
  const int64_t last = 100000;
  std::vector<float> cos;
  std::vector<float> sin;
  for (const int64_t t : {int64_t{0}, int64_t{1}, int64_t{4095}, last}) {
    compute_rope(config, t - t % 7, 1 + t % 7, cos, sin);
    ASSERT_EQ(cos.size(), static_cast<size_t>(1 + t % 7) * 32);
    ASSERT_EQ(sin.size(), cos.size());
    const float* const cos_of_t = &cos[static_cast<size_t>(t % 7) * 32];
    const float* const sin_of_t = &sin[static_cast<size_t>(t % 7) * 32];
    for (int64_t j = 0; j < 32; ++j) {
      const long double angle =
          static_cast<long double>(t) * std::pow(1e6L, -2.0L * static_cast<long double>(j) / 64);
      EXPECT_NEAR(cos_of_t[j], static_cast<double>(std::cos(angle)), 1e-7) << t << " " << j;
      EXPECT_NEAR(sin_of_t[j], static_cast<double>(std::sin(angle)), 1e-7) << t << " " << j;
    }
  }
}

TEST(Rope, MultipliesTheTablesByTheAttentionFactor) {
  Config config = read("deepseek-v3.2.json");
  config.rope.attention_factor = 1.25;
  std::vector<float> cos;
  std::vector<float> sin;
  compute_rope(config, 0, 2, cos, sin);
  EXPECT_EQ(cos[0], 1.25F);
  EXPECT_EQ(sin[0], 0.0F);
  EXPECT_FLOAT_EQ(sin[32], static_cast<float>(1.25 * std::sin(1.0)));
}

}  // namespace
}  // namespace fulgur
