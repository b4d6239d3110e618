#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "attention_support.h"
#include "ops/indexer_select.h"
#include "reference/indexer_select.h"

namespace fulgur {
namespace {

using namespace test;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

/// One sequence whose scores are given: two heads, of weights 1 and -1, that pass a key's positive and
/// negative part.
class GivenScores {
 public:
  explicit GivenScores(const std::vector<float>& scores)
      : pages_((static_cast<int>(scores.size()) + kPageTokens - 1) / kPageTokens), batch_({0, 0}, pages_) {
    keys_ = empty_values(DType::kF32, pages_, 2 * kPageTokens);  // unwritten slots are NaN
    for (size_t s = 0; s < scores.size(); ++s) {
      const int page = batch_.page_of(0, static_cast<int>(s));
      float* key = keys_.wide.data() + page * 2 * kPageTokens +
                   PagedKeys::offset(0, static_cast<int>(s) % kPageTokens);
      key[0] = scores[s];
      key[1] = 0;
    }
  }

  /// The selection of each of `count` rows from position `first` on.
  std::vector<std::vector<int32_t>> select(Isa isa, int threads, int64_t topk, int first, int count = 1,
                                           int64_t scratch = kDefaultIndexScratchBytes) {
    Machine machine(isa, threads);
    machine.context.index_scratch_bytes = scratch;
    batch_ = StepBatch({first, count}, pages_);
    std::vector<float> q;
    std::vector<float> weights;
    for (int t = 0; t < count; ++t) {
      q.insert(q.end(), {1, 0, -1, 0});
      weights.insert(weights.end(), {1, -1});
    }
    std::vector<int32_t> selected(static_cast<size_t>(count * topk), -7);
    const TokenBatch view = batch_.view();
    run(machine.context, IndexerSelect{{q.data(), DType::kF32, count, 4, 4},
                                       {weights.data(), count, 2},
                                       {keys_.wide.data(), DType::kF32, pages_, 2},
                                       kShape,
                                       view,
                                       {selected.data(), count, topk}});
    peak_ = machine.arena.peak_bytes();
    std::vector<std::vector<int32_t>> rows;
    for (int t = 0; t < count; ++t)
      rows.emplace_back(selected.begin() + t * topk, selected.begin() + (t + 1) * topk);
    return rows;
  }
  [[nodiscard]] uint32_t fault() const { return batch_.fault(0); }
  /// The arena's, in the last selection.
  [[nodiscard]] size_t peak_bytes() const { return peak_; }
  /// Of two heads of width 2.
  static constexpr IndexerShape kShape{.num_heads = 2, .head_dim = 2, .rope = 2, .rope_interleave = false};

 private:
  int pages_;
  StepBatch batch_;
  Values keys_;
  size_t peak_ = 0;
};

/// Expects of the last row, and of several rows in one tile, what a stable sort says.
void expect_exact(const std::vector<float>& scores, int64_t topk, const std::string& what) {
  const auto n = static_cast<int>(scores.size());
  for (const Isa isa : runnable_isas()) {
    for (const int threads : {1, 2}) {
      for (const int rows : {1, 40}) {
        if (rows > n) continue;
        GivenScores given(scores);
        const auto selected = given.select(isa, threads, topk, n - rows, rows);
        for (int t = 0; t < rows; ++t) {
          const std::span<const float> seen(scores.data(), static_cast<size_t>(n - rows + t + 1));
          std::vector<int32_t> expected = reference::select_top(seen, topk);
          expected.resize(static_cast<size_t>(topk), -1);
          ASSERT_EQ(selected[static_cast<size_t>(t)], expected)
              << what << ", " << name(isa) << ", " << threads << " threads, row " << t << " of " << rows;
        }
        EXPECT_EQ(given.fault(), 0U);
      }
    }
  }
}

std::vector<float> normal_scores(int n, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> scores(static_cast<size_t>(n));
  for (float& score : scores) score = normal(generator);
  return scores;
}

TEST(IndexerSelect, TakesTheBestOfScoresOfEveryShape) {
  for (const int n : {17, 63, 64, 65, 200, 1000, 4097}) {
    for (const int64_t topk : {1, 16, 24, 128, 2048}) {
      const std::string what = std::to_string(n) + " scores, topk " + std::to_string(topk);
      const auto i_of = [&](auto f) {
        std::vector<float> scores(static_cast<size_t>(n));
        for (int i = 0; i < n; ++i) scores[static_cast<size_t>(i)] = f(i);
        return scores;
      };
      expect_exact(normal_scores(n, 1), topk, what + ", normal");
      std::vector<float> concentrated = normal_scores(n, 2);
      for (float& score : concentrated) score = 10 + 0.05F * score;
      expect_exact(concentrated, topk, what + ", concentrated");
      expect_exact(i_of([](int) { return 0.0F; }), topk, what + ", zeros");
      expect_exact(i_of([](int i) { return static_cast<float>(i); }), topk, what + ", ascending");
      expect_exact(i_of([](int i) { return static_cast<float>(-i); }), topk, what + ", descending");
      expect_exact(i_of([](int i) { return static_cast<float>(i % 3); }), topk, what + ", three values");
      expect_exact(i_of([](int i) { return std::ldexp(1.0F, i % 250 - 125); }), topk,
                   what + ", all exponents");
      expect_exact(i_of([](int i) { return i % 7 == 0 ? -0.0F : 0.0F; }), topk, what + ", both zeros");
      expect_exact(i_of([](int i) { return i % 50 == 9  ? kInf
                                           : i % 5 == 0 ? -kInf
                                                        : 1.0F; }), topk,
                   what + ", infinities");
    }
  }
}

TEST(IndexerSelect, TakesTheLowerPositionOfTwoEqualScores) {
  for (const Isa isa : runnable_isas()) {
    EXPECT_EQ(GivenScores({1, 5, 3, 3, 3, 0}).select(isa, 1, 2, 5).front(), (std::vector<int32_t>{1, 2}))
        << name(isa);
    EXPECT_EQ(GivenScores({0, -0.0F, 0, 1}).select(isa, 1, 2, 3).front(), (std::vector<int32_t>{0, 3}))
        << name(isa);
  }
}

TEST(IndexerSelect, TakesEverythingUpToTopkPositionsWithoutScoringThem) {
  for (const Isa isa : runnable_isas()) {
    GivenScores given({kNan, kNan, kNan, kNan});
    EXPECT_EQ(given.select(isa, 2, 3, 1, 2), (std::vector<std::vector<int32_t>>{{0, 1, -1}, {0, 1, 2}}))
        << name(isa);
    EXPECT_EQ(given.fault(), 0U);
  }
}

TEST(IndexerSelect, GivesARowOfMinusOneAndTheFaultBitForANan) {
  for (const Isa isa : runnable_isas()) {
    for (const int at : {0, 63, 64, 700}) {
      for (const float bad : {kNan, -kNan}) {
        std::vector<float> scores = normal_scores(702, 3);
        scores[static_cast<size_t>(at)] = bad;
        GivenScores given(scores);
        // The row before the NaN's position doesn't see it.
        const auto selected = given.select(isa, 2, 20, 699, 3);
        for (int t = 0; t < 3; ++t) {
          EXPECT_EQ(selected[static_cast<size_t>(t)] == std::vector<int32_t>(20, -1), 699 + t >= at)
              << name(isa) << " " << at;
        }
        EXPECT_EQ(given.fault(), kFaultNan) << name(isa) << " " << at;
      }
    }
  }
}

TEST(IndexerSelect, IsExactOverContextsOfSeveralSegments) {
  constexpr int kLength = 300'001;  // the kernel's segments are 131,072 keys
  const Isa isa = runnable_isas().back();
  for (const char* kind : {"normal", "ascending", "zeros"}) {
    std::vector<float> scores = normal_scores(kLength, 4);
    for (int i = 0; i < kLength; ++i) {
      if (std::strcmp(kind, "ascending") == 0) scores[static_cast<size_t>(i)] = static_cast<float>(i);
      if (std::strcmp(kind, "zeros") == 0) scores[static_cast<size_t>(i)] = 0;
    }
    for (const int rows : {1, 20}) {
      for (const int64_t topk : {5, 2048}) {
        const auto selected = GivenScores(scores).select(isa, 2, topk, kLength - rows, rows);
        for (const int t : {0, rows - 1}) {
          const std::span<const float> seen(scores.data(), static_cast<size_t>(kLength - rows + t + 1));
          EXPECT_EQ(selected[static_cast<size_t>(t)], reference::select_top(seen, topk))
              << kind << " " << rows << " " << topk;
        }
      }
    }
  }
}

// The search of a tile's last row once wrote its padding over the positions that the first row had kept.
TEST(IndexerSelect, IsExactForEveryRowOfAFullTileOverSeveralSegments) {
  constexpr int kLength = 140'001;
  constexpr int kRows = 130;  // tiles of 16 on two threads
  const std::vector<float> scores = normal_scores(kLength, 7);
  const auto selected = GivenScores(scores).select(runnable_isas().back(), 2, 5, kLength - kRows, kRows);
  for (int t = 0; t < kRows; t += 43) {
    const std::span<const float> seen(scores.data(), static_cast<size_t>(kLength - kRows + t + 1));
    EXPECT_EQ(selected[static_cast<size_t>(t)], reference::select_top(seen, 5)) << t;
  }
}

TEST(IndexerSelect, TakesNoMoreThanItsBudgetWhateverTheContextAndSelectsTheSame) {
  constexpr int kKeys = 140'001;
  constexpr int kThreads = 2;
  const std::vector<float> scores = normal_scores(kKeys, 6);
  for (const Isa isa : runnable_isas()) {
    for (const int rows : {1, 20}) {
      for (const int64_t topk : {5, 2048}) {
        GivenScores given(scores);
        const auto expected = given.select(isa, kThreads, topk, kKeys - rows, rows);
        const size_t unbounded = given.peak_bytes();
        const auto least = cpu_backend(isa)->least_index_scratch(GivenScores::kShape, topk, kKeys, kThreads);
        EXPECT_LT(least, 1 << 20) << "a context of 140,000 scores takes more";
        for (const int64_t budget : {least, least + 50'000, int64_t{1} << 20}) {
          EXPECT_EQ(given.select(isa, kThreads, topk, kKeys - rows, rows, budget), expected)
              << name(isa) << " " << rows << " " << topk << " " << budget;
          const size_t tiles = 64 + 8 * static_cast<size_t>(rows);  // the list of them, of the batch's size
          EXPECT_LE(given.peak_bytes(), static_cast<size_t>(budget) + tiles);
          if (budget < int64_t{1} << 20) {
            EXPECT_LT(given.peak_bytes(), unbounded);
          }
        }
      }
    }
  }
}

TEST(IndexerSelect, FailsARowWhoseNanLiesInAnEarlierSegment) {
  std::vector<float> scores = normal_scores(200'000, 5);
  scores[100'000] = kNan;
  GivenScores given(scores);
  EXPECT_EQ(given.select(runnable_isas().back(), 2, 64, 199'999).front(), std::vector<int32_t>(64, -1));
  EXPECT_EQ(given.fault(), kFaultNan);
}

struct Dims {
  int heads;
  int dim;
  int topk;
};

/// Random queries and keys of three sequences, and what the two ops make of any part of them.
class Indexed {
 public:
  static constexpr int kPages = 12;
  static constexpr int kSequences = 3;

  Indexed(Isa isa, DType dtype, Dims dims, uint32_t seed) : isa_(isa), dtype_(dtype), dims_(dims) {
    const int rows = kPages * kPageTokens;
    for (int s = 0; s < kSequences; ++s) {
      q_.push_back(
          random_values(dtype, rows, int64_t{dims.heads} * dims.dim, seed + static_cast<uint32_t>(s)));
      weights_.push_back(random_values(DType::kF32, rows, dims.heads, seed + 10 + static_cast<uint32_t>(s)));
    }
    keys_ =
        random_values(dtype, kSequences * kPages, PagedKeys{.width = dims.dim}.page_elements(), seed + 20);
    if (dims.dim % 2 == 1) {
      for (int64_t page = 0; page < keys_.rows; ++page) {
        for (int slot = 0; slot < kPageTokens; ++slot) {
          const auto at = static_cast<size_t>(page * keys_.cols + PagedKeys::offset(dims.dim, slot));
          if (dtype == DType::kF32) {
            keys_.wide[at] = 0;
          } else {
            keys_.narrow[at] = 0;
          }
        }
      }
    }
  }

  struct Result {
    std::vector<std::vector<int32_t>> selected;
    std::vector<std::vector<float>> scores;
  };
  /// Both ops for these spans of the sequences with these numbers.
  Result run_both(int threads, const std::vector<Span>& spans, const std::vector<int>& sequences) {
    Machine machine(isa_, threads);
    StepBatch batch(spans, sequences, kSequences, kPages);
    Values q{.dtype = dtype_, .rows = batch.rows(), .cols = int64_t{dims_.heads} * dims_.dim};
    Values weights{.dtype = DType::kF32, .rows = batch.rows(), .cols = dims_.heads};
    for (size_t i = 0; i < spans.size(); ++i) {
      const auto& from = q_[static_cast<size_t>(sequences[i])];
      const auto& w = weights_[static_cast<size_t>(sequences[i])];
      const auto take = [&](auto& out, const auto& all, int64_t cols) {
        if (all.empty()) return;
        out.insert(out.end(), all.begin() + spans[i].first * cols,
                   all.begin() + (spans[i].first + spans[i].count) * cols);
      };
      take(q.narrow, from.narrow, q.cols);
      take(q.wide, from.wide, q.cols);
      take(weights.wide, w.wide, weights.cols);
    }
    const IndexerShape shape{
        .num_heads = dims_.heads, .head_dim = dims_.dim, .rope = 2, .rope_interleave = false};
    const PagedKeys keys{keys_.data(), dtype_, kSequences * kPages, dims_.dim};
    const TokenBatch view = batch.view();
    const int64_t columns = view.max_context + 3;
    std::vector<int32_t> selected(static_cast<size_t>(batch.rows() * dims_.topk), -7);
    std::vector<float> scores(static_cast<size_t>(batch.rows() * columns), kNan);
    const Matrix<const float> w{weights.wide.data(), batch.rows(), dims_.heads};
    run(machine.context,
        IndexerSelect{q.operand(), w, keys, shape, view, {selected.data(), batch.rows(), dims_.topk}});
    run(machine.context,
        IndexerScores{q.operand(), w, keys, shape, view, {scores.data(), batch.rows(), columns}});
    Result result;
    for (int64_t t = 0; t < batch.rows(); ++t) {
      result.selected.emplace_back(selected.begin() + t * dims_.topk,
                                   selected.begin() + (t + 1) * dims_.topk);
      const auto* row = scores.data() + t * columns;
      const int count = batch.position(static_cast<int>(t)) + 1;
      result.scores.emplace_back(row, row + count);
      EXPECT_TRUE(std::all_of(row + count, row + columns, [](float x) { return x == 0; }));
    }
    return result;
  }

 private:
  Isa isa_;
  DType dtype_;
  Dims dims_;
  std::vector<Values> q_;
  std::vector<Values> weights_;
  Values keys_;
};

const Dims kDims[] = {{4, 64, 128}, {5, 64, 16}, {4, 128, 24}, {3, 7, 20}, {9, 32, 33}};

TEST(IndexerSelect, RanksExactlyTheScoresThatIndexerScoresGives) {
  for (const Isa isa : runnable_isas()) {
    for (const DType dtype : {DType::kBf16, DType::kF32}) {
      for (const Dims& dims : kDims) {
        Indexed indexed(isa, dtype, dims, 1);
        const auto result = indexed.run_both(2, {{300, 90}, {700, 1}}, {1, 0});
        for (size_t t = 0; t < result.selected.size(); ++t) {
          std::vector<int32_t> expected =
              reference::select_top(std::span<const float>(result.scores[t]), dims.topk);
          expected.resize(static_cast<size_t>(dims.topk), -1);
          ASSERT_EQ(result.selected[t], expected) << name(isa) << " row " << t << ", dI " << dims.dim;
        }
      }
    }
  }
}

TEST(IndexerSelect, GivesTheSameBitsHoweverTheTokensAreBatchedAndThreaded) {
  for (const Isa isa : runnable_isas()) {
    for (const DType dtype : {DType::kBf16, DType::kF32}) {
      for (const Dims& dims : kDims) {
        Indexed indexed(isa, dtype, dims, 2);
        const auto whole = indexed.run_both(1, {{0, 500}}, {1});
        for (const int threads : {1, 2, 3}) {
          const auto among = indexed.run_both(threads, {{17, 1}, {0, 500}, {250, 40}}, {0, 1, 2});
          const auto late = indexed.run_both(threads, {{200, 7}, {470, 30}}, {2, 1});
          const auto alone = indexed.run_both(threads, {{499, 1}}, {1});
          for (size_t t = 0; t < 500; ++t) {
            ASSERT_EQ(among.scores[1 + t], whole.scores[t]);
            ASSERT_EQ(among.selected[1 + t], whole.selected[t]);
          }
          for (size_t t = 0; t < 30; ++t) {
            ASSERT_EQ(late.scores[7 + t], whole.scores[470 + t]);
            ASSERT_EQ(late.selected[7 + t], whole.selected[470 + t]);
          }
          ASSERT_EQ(alone.scores[0], whole.scores[499]);
          ASSERT_EQ(alone.selected[0], whole.selected[499]);
        }
      }
    }
  }
}

TEST(IndexerSelect, AgreesBetweenInstructionSetsButForKeysAtTheBoundary) {
  const std::vector<Isa> isas = runnable_isas();
  for (const DType dtype : {DType::kBf16, DType::kF32}) {
    for (const Dims& dims : kDims) {
      const auto base = Indexed(isas.front(), dtype, dims, 3).run_both(2, {{600, 20}}, {0});
      for (const Isa isa : isas) {
        const auto other = Indexed(isa, dtype, dims, 3).run_both(2, {{600, 20}}, {0});
        for (size_t t = 0; t < base.selected.size(); ++t) {
          std::vector<float> sorted = base.scores[t];
          std::ranges::sort(sorted, std::greater<>());
          const float boundary = sorted[static_cast<size_t>(dims.topk) - 1];
          // nI * dI products of unit normals: a few sqrt(nI * dI) in size, dI + nI roundings each.
          const float tolerance = static_cast<float>(dims.dim + dims.heads) * 8 *
                                  std::sqrt(float(dims.dim * dims.heads)) * 0x1p-24F;
          std::vector<int32_t> changed;
          std::ranges::set_symmetric_difference(base.selected[t], other.selected[t],
                                                std::back_inserter(changed));
          for (const int32_t s : changed) {
            EXPECT_NEAR(base.scores[t][static_cast<size_t>(s)], boundary, tolerance)
                << name(isa) << " row " << t;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace fulgur
