#include "kernels/cuda/radix_window.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace fulgur::cuda {
namespace {

uint32_t key_of(float score) { return ordered_key(std::bit_cast<uint32_t>(score)); }

TEST(OrderedKey, OrdersAsTheFloatsDo) {
  const float infinity = std::numeric_limits<float>::infinity();
  const std::vector<float> ascending = {-infinity, -3e38F, -1, -1e-38F, -1e-45F, 0,
                                        1e-45F,    1e-38F, 1,  3e38F,   infinity};
  for (size_t i = 0; i + 1 < ascending.size(); ++i) EXPECT_LT(key_of(ascending[i]), key_of(ascending[i + 1]));
  EXPECT_EQ(key_of(-0.0F), key_of(0.0F));
  // The last bin of the first pass is that of the one NaN that sums give.
  EXPECT_EQ(ordered_key(0x7FFFFFFF) >> pass_shift(0), pass_bins(0) - 1);
  EXPECT_LT(key_of(infinity) >> pass_shift(0), pass_bins(0) - 1);
}

TEST(OrderedKey, NoScoreHasTheKeyOfAnAbsentOne) {
  EXPECT_GT(key_of(-std::numeric_limits<float>::infinity()) >> pass_shift(0), 0);
}

/// What a warp finds: where the running sum from the last count down reaches `needed`.
Crossing crossing(const uint32_t* counts, uint32_t needed) {
  uint32_t above = 0;
  for (uint32_t i = kBinGroup; i-- > 0;) {
    if (above + counts[i] >= needed) return {i, above, counts[i]};
    above += counts[i];
  }
  ADD_FAILURE() << "the counts don't reach " << needed;
  return {};
}

/// One pass, as TopkSelect::narrow makes it of the histograms of several blocks.
Window narrow(const std::vector<std::vector<uint32_t>>& blocks, Window window, int pass) {
  std::vector<uint32_t> bins(kMostBins);
  for (const auto& keys : blocks) {
    for (const uint32_t key : keys) {
      if (!window.holds(key)) continue;
      const uint32_t bin = (key - window.low) >> pass_shift(pass);
      EXPECT_LT(bin, pass_bins(pass));
      ++bins[bin];
    }
  }
  std::vector<uint32_t> groups(kMostBins / kBinGroup);
  for (size_t bin = 0; bin < bins.size(); ++bin) groups[bin / kBinGroup] += bins[bin];
  const Crossing group = crossing(groups.data(), window.needed);
  window.needed -= group.above;
  const Crossing bin = crossing(&bins[group.index * kBinGroup], window.needed);
  return narrowed(window, pass_shift(pass), group.index * kBinGroup + bin.index, bin);
}

std::vector<uint32_t> best_of(const std::vector<float>& scores, uint32_t topk, size_t blocks) {
  std::vector<std::vector<uint32_t>> keys(blocks);
  const size_t slice = (scores.size() + blocks - 1) / blocks;
  for (size_t i = 0; i < scores.size(); ++i) keys[i / slice].push_back(key_of(scores[i]));
  Window window = whole_range(topk, static_cast<uint32_t>(scores.size()));
  int passes = 0;
  while (!window.settled()) window = narrow(keys, window, passes++);
  EXPECT_LE(passes, kPasses);
  std::vector<uint32_t> selected;
  uint32_t inside = 0;
  for (size_t i = 0; i < scores.size(); ++i) {
    const uint32_t key = key_of(scores[i]);
    if (window.beaten_by(key) || (window.holds(key) && inside++ < window.needed)) {
      selected.push_back(static_cast<uint32_t>(i));
    }
  }
  return selected;
}

std::vector<uint32_t> sorted_best(const std::vector<float>& scores, uint32_t topk) {
  std::vector<uint32_t> order(scores.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<uint32_t>(i);
  std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return scores[a] > scores[b]; });
  order.resize(topk);
  std::sort(order.begin(), order.end());
  return order;
}

TEST(RadixWindow, SelectsWhatSortingDoes) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  const auto scores_of = [&](auto&& score) {
    std::vector<float> scores(5000);
    for (size_t i = 0; i < scores.size(); ++i) scores[i] = score(i);
    return scores;
  };
  const float infinity = std::numeric_limits<float>::infinity();
  const std::vector<std::vector<float>> inputs = {
      scores_of([&](size_t) { return normal(random); }),
      scores_of([&](size_t) { return 10 + 0.05F * normal(random); }),
      scores_of([&](size_t) { return -1e-3F * std::abs(normal(random)); }),
      scores_of([&](size_t) { return 2.5F; }),
      scores_of([&](size_t i) { return i % 2 == 0 ? 0.0F : -0.0F; }),
      scores_of([&](size_t i) { return static_cast<float>(i); }),
      scores_of([&](size_t i) { return -static_cast<float>(i); }),
      scores_of([&](size_t i) { return i % 3 == 0   ? infinity
                                       : i % 3 == 1 ? -infinity
                                                    : normal(random); }),
      scores_of([&](size_t i) { return static_cast<float>(i % 7) * 1e-45F; }),
  };
  for (size_t input = 0; input < inputs.size(); ++input) {
    for (const uint32_t topk : {1U, 5U, 2048U, 4999U}) {
      for (const size_t blocks : {1U, 4U, 16U}) {
        EXPECT_EQ(best_of(inputs[input], topk, blocks), sorted_best(inputs[input], topk))
            << "input " << input << ", top " << topk << ", " << blocks << " blocks";
      }
    }
  }
}

}  // namespace
}  // namespace fulgur::cuda
