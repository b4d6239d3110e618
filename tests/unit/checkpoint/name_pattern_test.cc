#include <gtest/gtest.h>

#include <string>

#include "checkpoint/parameter.h"

namespace fulgur {
namespace {

struct Case {
  const char* name;
  const char* pattern;
  bool matches;
};

class NamePattern : public ::testing::TestWithParam<Case> {};

TEST_P(NamePattern, MatchesWholeComponents) {
  EXPECT_EQ(matches_pattern(GetParam().name, GetParam().pattern), GetParam().matches)
      << GetParam().name << " against " << GetParam().pattern;
}

INSTANTIATE_TEST_SUITE_P(
    Table, NamePattern,
    ::testing::Values(Case{"a.wk.weight", "a.wk.weight", true},
                      Case{"a.wk_weights_proj.weight", "a.wk.weight", false},
                      Case{"a.wk.weight.x", "a.wk.weight", false}, Case{"a.wk", "a.wk.weight", false},
                      Case{"a.b.c", "a.*.c", true}, Case{"a.b.b.c", "a.*.c", false},
                      Case{"a.c", "a.*.c", false},
                      Case{"rotary_emb.inv_freq", "**.rotary_emb.inv_freq", true},
                      Case{"model.layers.0.self_attn.rotary_emb.inv_freq", "**.rotary_emb.inv_freq", true},
                      Case{"model.my_rotary_emb.inv_freq", "**.rotary_emb.inv_freq", false},
                      Case{"model.rotary_emb.inv_freq.x", "**.rotary_emb.inv_freq", false},
                      Case{"m.rotary_emb.rotary_emb.inv_freq", "**.rotary_emb.inv_freq", true},
                      Case{"l.0.self_attn.k_proj.k_scale", "**.self_attn.**.k_scale", true},
                      Case{"l.0.self_attn.k_scale", "**.self_attn.**.k_scale", true},
                      Case{"l.0.mlp.k_scale", "**.self_attn.**.k_scale", false},
                      Case{"a.self_attn.k_scale.self_attn.x.k_scale", "**.self_attn.*.k_scale", true},
                      Case{"model.layers.61.mlp.gate.weight", "model.layers.>=61.**", true},
                      Case{"model.layers.100.x", "model.layers.>=61.**", true},
                      Case{"model.layers.4294967296.x", "model.layers.>=61.**", true},
                      Case{"model.layers.99999999999999999999.x", "model.layers.>=61.**", true},
                      Case{"model.layers.99999999999999999999x.x", "model.layers.>=61.**", false},
                      Case{"model.layers.7.x", "model.layers.>=61.**", false},
                      Case{"model.layers.61", "model.layers.>=61.**", true},
                      Case{"model.layers.61x.y", "model.layers.>=61.**", false},
                      Case{"model.layers.-61.y", "model.layers.>=61.**", false},
                      Case{"model.layers..y", "model.layers.>=0.**", false}, Case{"", "**", true},
                      Case{"", "*", true}, Case{"a..b", "a.*.b", true}));

TEST(NamePatternOfALongName, TakesLinearTime) {
  std::string name;
  for (int i = 0; i < 1'000'000; ++i) name += "self_attn.";
  EXPECT_FALSE(matches_pattern(name, "**.self_attn.**.k_scale"));
}

}  // namespace
}  // namespace fulgur
