#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

#include "attention_support.h"
#include "ops/mla_attention.h"
#include "reference/dense_mla.h"
#include "reference/sparse_mla.h"

namespace fulgur {
namespace {

using namespace test;

constexpr float kScale = 0.1F;

struct Dims {
  int heads;
  int kv_lora;
  int rope;
};
const Dims kDims[] = {{4, 128, 32}, {3, 32, 16}, {4, 40, 64}, {9, 72, 6}, {1, 16, 2}};

/// Random queries and latents of three sequences; any part of them through either op.
class Attended {
 public:
  static constexpr int kPages = 6;
  static constexpr int kSequences = 3;

  Attended(Isa isa, DType dtype, Dims dims, uint32_t seed)
      : isa_(isa),
        dtype_(dtype),
        shape_{.num_heads = dims.heads,
               .kv_lora = dims.kv_lora,
               .nope = 8,
               .rope = dims.rope,
               .value = 8,
               .rope_interleave = true} {
    for (int s = 0; s < kSequences; ++s) {
      q_.push_back(random_values(dtype, kPages * kPageTokens,
                                 int64_t{dims.heads} * (dims.kv_lora + dims.rope),
                                 seed + static_cast<uint32_t>(s)));
    }
    pool_ = random_values(dtype, kSequences * kPages * kPageTokens, dims.kv_lora + dims.rope, seed + 9);
  }

  /// Spoils the entry of a position.
  void set_nan(const StepBatch& batch, int sequence, int position) {
    const int64_t token = int64_t{batch.page_of(sequence, position)} * kPageTokens + position % kPageTokens;
    for (int64_t i = 0; i < pool_.cols; ++i) {
      const auto at = static_cast<size_t>(token * pool_.cols + i);
      if (dtype_ == DType::kF32) {
        pool_.wide[at] = std::numeric_limits<float>::quiet_NaN();
      } else {
        pool_.narrow[at] = 0x7fc0;
      }
    }
  }

  static StepBatch batch_of(const std::vector<Span>& spans, const std::vector<int>& sequences) {
    return {spans, sequences, kSequences, kPages};
  }
  Values queries_of(const std::vector<Span>& spans, const std::vector<int>& sequences) {
    Values q{.dtype = dtype_, .cols = q_[0].cols};
    for (size_t i = 0; i < spans.size(); ++i) {
      const Values& from = q_[static_cast<size_t>(sequences[i])];
      const auto begin = spans[i].first * q.cols;
      const auto end = begin + spans[i].count * q.cols;
      if (dtype_ == DType::kF32) {
        q.wide.insert(q.wide.end(), from.wide.begin() + begin, from.wide.begin() + end);
      } else {
        q.narrow.insert(q.narrow.end(), from.narrow.begin() + begin, from.narrow.begin() + end);
      }
      q.rows += spans[i].count;
    }
    return q;
  }
  /// The positions that row `row` reads: a third of them, or up to `topk`, depending on nothing but the
  /// position.
  static std::vector<int32_t> selection_of(int position, int64_t topk) {
    std::vector<int32_t> selected;
    for (int s = position % 2; s <= position && static_cast<int64_t>(selected.size()) < topk;
         s += 1 + (s + position) % 3) {
      selected.push_back(s);
    }
    if (selected.empty()) selected.push_back(0);
    return selected;
  }

  Values dense(int threads, StepBatch& batch, Values q,
               const std::function<void(const DenseMla&)>& look = {}) {
    Machine machine(isa_, threads);
    Values u = empty_values(dtype_, q.rows, int64_t{shape_.num_heads} * shape_.kv_lora);
    const TokenBatch view = batch.view();
    const DenseMla op{q.operand(), latents(), view, shape_, kScale, u.operand()};
    run(machine.context, op);
    if (look) look(op);
    return u;
  }
  Values sparse(int threads, int64_t topk, StepBatch& batch, Values q,
                const std::function<void(const SparseMla&)>& look = {}) {
    Machine machine(isa_, threads);
    std::vector<int32_t> selected;
    for (int row = 0; row < batch.rows(); ++row) {
      std::vector<int32_t> positions = selection_of(batch.position(row), topk);
      positions.resize(static_cast<size_t>(topk), -1);
      selected.insert(selected.end(), positions.begin(), positions.end());
    }
    Values u = empty_values(dtype_, q.rows, int64_t{shape_.num_heads} * shape_.kv_lora);
    const TokenBatch view = batch.view();
    const SparseMla op{q.operand(), latents(), view,       {selected.data(), batch.rows(), topk},
                       shape_,      kScale,    u.operand()};
    run(machine.context, op);
    if (look) look(op);
    return u;
  }

 private:
  PagedLatents latents() { return {pool_.data(), dtype_, kSequences * kPages, static_cast<int>(pool_.cols)}; }

  Isa isa_;
  DType dtype_;
  MlaShape shape_;
  std::vector<Values> q_;
  Values pool_;
};

void expect_close(const reference::Table& expected, const Operand& u, const std::string& what) {
  const reference::Table actual = reference::values_of(u);
  for (int64_t t = 0; t < u.rows; ++t) {
    for (int64_t i = 0; i < u.cols; ++i) {
      ASSERT_LE(std::abs(actual.at(t, i).value - expected.at(t, i).value), expected.at(t, i).error)
          << what << " row " << t << " column " << i << ": " << actual.at(t, i).value << " for "
          << expected.at(t, i).value;
    }
  }
}

template <typename F>
void for_each_case(F&& f) {
  for (const Isa isa : runnable_isas()) {
    for (const DType dtype : {DType::kBf16, DType::kF32}) {
      for (const Dims& dims : kDims) {
        f(isa, dtype, dims,
          std::string(name(isa)) + " " + std::string(name(dtype)) + " r " + std::to_string(dims.kv_lora));
      }
    }
  }
}

TEST(MlaAttention, IsWithinTheToleranceOfTheReference) {
  for_each_case([](Isa isa, DType dtype, const Dims& dims, const std::string& what) {
    Attended attended(isa, dtype, dims, 1);
    const std::vector<Span> spans = {{60, 10}, {0, 3}, {383, 1}};
    StepBatch batch = Attended::batch_of(spans, {2, 1, 0});
    attended.dense(2, batch, attended.queries_of(spans, {2, 1, 0}), [&](const DenseMla& op) {
      expect_close(reference::dense_mla(op), op.u, "dense " + what);
    });
    for (const int64_t topk : {16, 24, 128, 200}) {
      attended.sparse(2, topk, batch, attended.queries_of(spans, {2, 1, 0}), [&](const SparseMla& op) {
        expect_close(reference::sparse_mla(op), op.u, "sparse " + what);
      });
    }
  });
}

/// Row t of `part` is row `first` + t of `whole`.
void expect_rows_of(Values& whole, int64_t first, Values& part, int64_t part_first, int64_t count,
                    const std::string& what) {
  const auto bytes = static_cast<size_t>(count * whole.cols) * size_bytes(whole.dtype);
  ASSERT_EQ(std::memcmp(rows_of(whole, first, count).data, rows_of(part, part_first, count).data, bytes), 0)
      << what;
}

TEST(MlaAttention, GivesTheSameBitsHoweverTheTokensAreBatchedAndThreaded) {
  for_each_case([](Isa isa, DType dtype, const Dims& dims, const std::string& what) {
    Attended attended(isa, dtype, dims, 2);
    const auto run_parts = [&](auto run) {
      Values whole = run(1, std::vector<Span>{{0, 300}}, std::vector<int>{1});
      for (const int threads : {1, 2, 3}) {
        Values among =
            run(threads, std::vector<Span>{{17, 1}, {0, 300}, {100, 40}}, std::vector<int>{0, 1, 2});
        Values late = run(threads, std::vector<Span>{{200, 7}, {270, 30}}, std::vector<int>{2, 1});
        Values alone = run(threads, std::vector<Span>{{299, 1}}, std::vector<int>{1});
        expect_rows_of(whole, 0, among, 1, 300, what);
        expect_rows_of(whole, 270, late, 7, 30, what);
        expect_rows_of(whole, 299, alone, 0, 1, what);
      }
    };
    run_parts([&](int threads, const std::vector<Span>& spans, const std::vector<int>& sequences) {
      StepBatch batch = Attended::batch_of(spans, sequences);
      return attended.dense(threads, batch, attended.queries_of(spans, sequences));
    });
    for (const int64_t topk : {24, 200}) {
      run_parts([&](int threads, const std::vector<Span>& spans, const std::vector<int>& sequences) {
        StepBatch batch = Attended::batch_of(spans, sequences);
        return attended.sparse(threads, topk, batch, attended.queries_of(spans, sequences));
      });
    }
  });
}

TEST(SparseMla, ReadsNothingButTheSelectedEntries) {
  for_each_case([](Isa isa, DType dtype, const Dims& dims, const std::string& what) {
    const std::vector<Span> spans = {{200, 1}};
    Attended attended(isa, dtype, dims, 3);
    StepBatch batch = Attended::batch_of(spans, {1});
    const Values before = attended.sparse(1, 128, batch, attended.queries_of(spans, {1}));
    const std::vector<int32_t> selected = Attended::selection_of(200, 128);
    for (int s = 0; s < Attended::kPages * kPageTokens; ++s) {
      if (!std::ranges::binary_search(selected, s)) attended.set_nan(batch, 0, s);
    }
    EXPECT_TRUE(same_bits(before, attended.sparse(1, 128, batch, attended.queries_of(spans, {1})))) << what;
    EXPECT_EQ(batch.fault(0), 0U);
  });
}

TEST(MlaAttention, SetsTheFaultBitOfTheSequenceThatHoldsANan) {
  for_each_case([](Isa isa, DType dtype, const Dims& dims, const std::string& what) {
    const std::vector<Span> spans = {{100, 2}, {100, 2}};
    Attended attended(isa, dtype, dims, 4);
    StepBatch batch = Attended::batch_of(spans, {0, 1});
    attended.set_nan(batch, 1, Attended::selection_of(101, 128).back());
    attended.dense(2, batch, attended.queries_of(spans, {0, 1}));
    EXPECT_EQ(batch.fault(0), 0U) << what;
    EXPECT_EQ(batch.fault(1), kFaultNan) << what;

    StepBatch again = Attended::batch_of(spans, {0, 1});
    attended.sparse(2, 128, again, attended.queries_of(spans, {0, 1}));
    EXPECT_EQ(again.fault(0), 0U) << what;
    EXPECT_EQ(again.fault(1), kFaultNan) << what;
  });
}

TEST(DenseMla, DoesNotSeeLaterPositionsOfItsOwnChunk) {
  for_each_case([](Isa isa, DType dtype, const Dims& dims, const std::string& what) {
    const std::vector<Span> spans = {{60, 20}};
    Attended attended(isa, dtype, dims, 5);
    StepBatch batch = Attended::batch_of(spans, {0});
    Values before = attended.dense(1, batch, attended.queries_of(spans, {0}));
    attended.set_nan(batch, 0, 75);
    Values after = attended.dense(1, batch, attended.queries_of(spans, {0}));
    expect_rows_of(before, 0, after, 0, 15, what);
  });
}

}  // namespace
}  // namespace fulgur
