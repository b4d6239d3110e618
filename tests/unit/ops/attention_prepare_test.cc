#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "attention_support.h"
#include "ops/indexer_prepare.h"
#include "ops/mla_prepare.h"
#include "reference/indexer_prepare.h"
#include "reference/mla_prepare.h"

namespace fulgur {
namespace {

using namespace test;

struct Dims {
  const char* name;
  int hidden;
  int q_lora;
  int heads;
  int kv_lora;
  int nope;
  int rope;
  bool interleave;
  int index_heads;
  int index_dim;
};
const Dims kDims[] = {
    {"mini-v32", 256, 128, 4, 128, 32, 32, true, 4, 64},
    {"v32", 160, 48, 3, 32, 16, 16, true, 4, 128},
    {"glm", 144, 56, 4, 40, 24, 64, true, 5, 64},
    {"odd", 100, 36, 3, 44, 10, 6, false, 3, 9},
};

Values around_one(DType form, int64_t cols, uint32_t seed) {
  Values v = random_values(form, 1, cols, seed, 0.2F);
  for (float& x : v.wide) x += 1;
  for (uint16_t& x : v.narrow) x = to_bf16(1 + to_float(Bf16{x})).bits;
  return v;
}
Values weights_of(DType form, int64_t rows, int64_t cols, uint32_t seed) {
  return random_values(form, rows, cols, seed, 1 / std::sqrt(static_cast<float>(cols)));
}

/// One layer's weights and the inputs of three sequences; any part of them through either op.
class Prepared {
 public:
  static constexpr int kPages = 12;
  static constexpr int kSequences = 3;
  static constexpr int kPositions = kPages * kPageTokens;

  Prepared(Isa isa, DType dtype, DType form, const Dims& dims, bool has_q_lora = true)
      : isa_(isa),
        dtype_(dtype),
        dims_(dims),
        q_a_(weights_of(form, dims.q_lora, dims.hidden, 1)),
        q_a_norm_(around_one(form, dims.q_lora, 2)),
        q_b_(weights_of(form, dims.heads * (dims.nope + dims.rope), has_q_lora ? dims.q_lora : dims.hidden,
                        3)),
        kv_a_(weights_of(form, dims.kv_lora + dims.rope, dims.hidden, 4)),
        kv_a_norm_(around_one(form, dims.kv_lora, 5)),
        uk_(weights_of(dtype, dims.heads * dims.kv_lora, dims.nope, 6)),
        wk_weights_proj_(weights_of(dtype, dims.index_dim + dims.index_heads, dims.hidden, 7)),
        k_norm_gain_(around_one(DType::kF32, dims.index_dim, 8)),
        k_norm_bias_(random_values(form, 1, dims.index_dim, 9, 0.1F)),
        wq_b_(weights_of(form, dims.index_heads * dims.index_dim, dims.q_lora, 10)) {
    for (int s = 0; s < kSequences; ++s) {
      x_.push_back(random_values(dtype, kPositions, dims.hidden, 20 + static_cast<uint32_t>(s)));
      q_latent_.push_back(random_values(dtype, kPositions, dims.q_lora, 30 + static_cast<uint32_t>(s)));
    }
    for (int t = 0; t < kPositions; ++t) {
      for (int j = 0; j < dims.rope / 2; ++j) {
        const double angle = t * std::pow(10000.0, -2.0 * j / dims.rope);
        cos_.push_back(static_cast<float>(std::cos(angle)));
        sin_.push_back(static_cast<float>(std::sin(angle)));
      }
    }
    mla_weights_ = {
        .q_b = q_b_.weight(), .kv_a = kv_a_.weight(), .kv_a_norm = kv_a_norm_.weight(), .uk = uk_.weight()};
    if (has_q_lora) {
      mla_weights_.q_a = q_a_.weight();
      mla_weights_.q_a_norm = q_a_norm_.weight();
    }
    indexer_weights_ = {wk_weights_proj_.weight(), k_norm_gain_.weight(), k_norm_bias_.weight(),
                        wq_b_.weight()};
    mla_shape_ = {dims.heads, dims.kv_lora, dims.nope, dims.rope, 8, dims.interleave};
    indexer_shape_ = {dims.index_heads, dims.index_dim, dims.rope, !dims.interleave};
  }

  struct Mla {
    Values q_latent;
    Values q;
    Values pool;
  };
  template <typename Look>
  Mla mla(int threads, const std::vector<Span>& spans, const std::vector<int>& sequences, Look&& look) {
    StepBatch batch(spans, sequences, kSequences, kPages);
    Values x = rows_of_spans(x_, spans, sequences);
    const bool has_q_lora = mla_weights_.q_a.present();
    Mla out{empty_values(dtype_, has_q_lora ? batch.rows() : 0, dims_.q_lora),
            empty_values(dtype_, batch.rows(), int64_t{dims_.heads} * (dims_.kv_lora + dims_.rope)),
            empty_values(dtype_, kSequences * kPositions, dims_.kv_lora + dims_.rope)};
    Machine machine(isa_, threads);
    const RopeTable rope = rope_table();
    const TokenBatch view = batch.view();
    const MlaPrepare op{x.operand(),
                        mla_weights_,
                        mla_shape_,
                        rope,
                        view,
                        out.q_latent.operand(),
                        out.q.operand(),
                        {out.pool.data(), dtype_, kSequences * kPages, dims_.kv_lora + dims_.rope}};
    run(machine.context, op);
    look(op);
    return out;
  }

  struct Indexer {
    Values q;
    Values head_weights;
    Values pool;
  };
  template <typename Look>
  Indexer indexer(int threads, IndexerProjection projection, const std::vector<Span>& spans,
                  const std::vector<int>& sequences, Look&& look) {
    StepBatch batch(spans, sequences, kSequences, kPages);
    Values x = rows_of_spans(x_, spans, sequences);
    Values q_latent = rows_of_spans(q_latent_, spans, sequences);
    Indexer out{
        empty_values(dtype_, batch.rows(), int64_t{dims_.index_heads} * dims_.index_dim),
        empty_values(DType::kF32, batch.rows(), dims_.index_heads),
        empty_values(dtype_, kSequences * kPages, PagedKeys{.width = dims_.index_dim}.page_elements())};
    Machine machine(isa_, threads);
    const RopeTable rope = rope_table();
    const TokenBatch view = batch.view();
    const IndexerPrepare op{x.operand(),
                            q_latent.operand(),
                            indexer_weights_,
                            indexer_shape_,
                            projection,
                            rope,
                            view,
                            out.q.operand(),
                            {out.head_weights.wide.data(), batch.rows(), dims_.index_heads},
                            {out.pool.data(), dtype_, kSequences * kPages, dims_.index_dim}};
    run(machine.context, op);
    look(op);
    return out;
  }

 private:
  [[nodiscard]] Values rows_of_spans(std::vector<Values>& all, const std::vector<Span>& spans,
                                     const std::vector<int>& sequences) const {
    Values rows{.dtype = dtype_, .cols = all[0].cols};
    for (size_t i = 0; i < spans.size(); ++i) {
      const Values& from = all[static_cast<size_t>(sequences[i])];
      const auto begin = spans[i].first * rows.cols;
      const auto end = begin + spans[i].count * rows.cols;
      if (dtype_ == DType::kF32) {
        rows.wide.insert(rows.wide.end(), from.wide.begin() + begin, from.wide.begin() + end);
      } else {
        rows.narrow.insert(rows.narrow.end(), from.narrow.begin() + begin, from.narrow.begin() + end);
      }
      rows.rows += spans[i].count;
    }
    return rows;
  }
  [[nodiscard]] RopeTable rope_table() const {
    return {{cos_.data(), kPositions, dims_.rope / 2}, {sin_.data(), kPositions, dims_.rope / 2}};
  }

  Isa isa_;
  DType dtype_;
  Dims dims_;
  Values q_a_, q_a_norm_, q_b_, kv_a_, kv_a_norm_, uk_;
  Values wk_weights_proj_, k_norm_gain_, k_norm_bias_, wq_b_;
  std::vector<Values> x_;
  std::vector<Values> q_latent_;
  std::vector<float> cos_;
  std::vector<float> sin_;
  MlaWeights mla_weights_;
  IndexerWeights indexer_weights_;
  MlaShape mla_shape_{};
  IndexerShape indexer_shape_{};
};

constexpr auto kLookAway = [](const auto&) {};

/// native: everything bf16. full: f32 operands; the weights as stored, or f32.
template <typename F>
void for_each_case(F&& f) {
  for (const Isa isa : runnable_isas()) {
    for (const auto& [dtype, form] :
         {std::pair{DType::kBf16, DType::kBf16}, std::pair{DType::kF32, DType::kBf16},
          std::pair{DType::kF32, DType::kF32}}) {
      for (const Dims& dims : kDims) {
        f(isa, dtype, form, dims,
          std::string(name(isa)) + " " + std::string(name(dtype)) + "/" + std::string(name(form)) + " " +
              dims.name);
      }
    }
  }
}

void expect_row_close(reference::Row expected, reference::Row actual, const std::string& what) {
  ASSERT_EQ(expected.size(), actual.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    ASSERT_LE(std::abs(actual[i].value - expected[i].value), expected[i].error)
        << what << " column " << i << ": " << actual[i].value << " for " << expected[i].value;
  }
}
void expect_close(const reference::Table& expected, const reference::Table& actual, const std::string& what) {
  ASSERT_EQ(expected.rows, actual.rows);
  for (int64_t t = 0; t < expected.rows; ++t) {
    expect_row_close(expected.row(t), actual.row(t), what + " row " + std::to_string(t));
  }
}

const std::vector<Span> kSpans = {{60, 10}, {0, 3}, {383, 1}};
const std::vector<int> kSequenceOrder = {2, 1, 0};

TEST(MlaPrepare, IsWithinTheToleranceOfTheReference) {
  for_each_case([](Isa isa, DType dtype, DType form, const Dims& dims, const std::string& what) {
    for (const bool has_q_lora : {true, false}) {
      Prepared prepared(isa, dtype, form, dims, has_q_lora);
      prepared.mla(2, kSpans, kSequenceOrder, [&](const MlaPrepare& op) {
        const reference::MlaPrepared expected = reference::mla_prepare(op);
        if (has_q_lora)
          expect_close(expected.q_latent, reference::values_of(op.q_latent), what + " q_latent");
        expect_close(expected.q, reference::values_of(op.q), what + " q");
        for (int64_t t = 0; t < op.x.rows; ++t) {
          const auto entry = reference::cached_latent(op.latents, op.batch, t, op.batch.position[t]);
          expect_row_close(expected.entries.row(t), entry, what + " entry");
        }
      });
    }
  });
}

TEST(IndexerPrepare, IsWithinTheToleranceOfTheReference) {
  for_each_case([](Isa isa, DType dtype, DType form, const Dims& dims, const std::string& what) {
    Prepared prepared(isa, dtype, form, dims);
    prepared.indexer(2, IndexerProjection::kFused, kSpans, kSequenceOrder, [&](const IndexerPrepare& op) {
      const reference::IndexerPrepared expected = reference::indexer_prepare(op);
      expect_close(expected.q, reference::values_of(op.q), what + " q");
      expect_close(expected.head_weights, reference::values_of(op.head_weights), what + " head weights");
      for (int64_t t = 0; t < op.x.rows; ++t) {
        const auto key = reference::cached_key(op.keys, op.batch, t, op.batch.position[t]);
        expect_row_close(expected.keys.row(t), key, what + " key");
      }
    });
  });
}

TEST(IndexerPrepare, GivesTheSameBitsSeparateOverlappedAndFused) {
  for_each_case([](Isa isa, DType dtype, DType form, const Dims& dims, const std::string& what) {
    Prepared prepared(isa, dtype, form, dims);
    for (const auto& spans :
         {std::vector<Span>{{0, 600}}, std::vector<Span>{{70, 1}}, std::vector<Span>{{5, 23}}}) {
      const auto fused = prepared.indexer(1, IndexerProjection::kFused, spans, {1}, kLookAway);
      for (const auto projection :
           {IndexerProjection::kFused, IndexerProjection::kOverlapped, IndexerProjection::kSeparate}) {
        for (const int threads : {1, 2, 3}) {
          const auto other = prepared.indexer(threads, projection, spans, {1}, kLookAway);
          EXPECT_TRUE(same_bits(fused.q, other.q)) << what;
          EXPECT_TRUE(same_bits(fused.head_weights, other.head_weights)) << what;
          EXPECT_TRUE(same_bits(fused.pool, other.pool)) << what;
        }
      }
    }
  });
}

/// Whether rows [first, first + count) of `whole` are the rows of `part` from `part_first` on.
bool same_rows(Values& whole, int64_t first, Values& part, int64_t part_first, int64_t count) {
  const auto bytes = static_cast<size_t>(count * whole.cols) * size_bytes(whole.dtype);
  return std::memcmp(rows_of(whole, first, count).data, rows_of(part, part_first, count).data, bytes) == 0;
}

TEST(MlaPrepare, GivesTheSameBitsHoweverTheTokensAreBatchedAndThreaded) {
  for_each_case([](Isa isa, DType dtype, DType form, const Dims& dims, const std::string& what) {
    Prepared prepared(isa, dtype, form, dims);
    auto whole = prepared.mla(1, {{0, 600}}, {1}, kLookAway);
    for (const int threads : {1, 2, 3}) {
      auto among = prepared.mla(threads, {{17, 1}, {0, 600}, {100, 40}}, {0, 1, 2}, kLookAway);
      auto late = prepared.mla(threads, {{200, 7}, {570, 30}}, {2, 1}, kLookAway);
      auto alone = prepared.mla(threads, {{599, 1}}, {1}, kLookAway);
      EXPECT_TRUE(same_rows(whole.q, 0, among.q, 1, 600)) << what;
      EXPECT_TRUE(same_rows(whole.q, 570, late.q, 7, 30)) << what;
      EXPECT_TRUE(same_rows(whole.q, 599, alone.q, 0, 1)) << what;
      EXPECT_TRUE(same_rows(whole.q_latent, 0, among.q_latent, 1, 600)) << what;
      EXPECT_TRUE(same_rows(whole.q_latent, 599, alone.q_latent, 0, 1)) << what;
      StepBatch batch({{0, 600}}, {1}, Prepared::kSequences, Prepared::kPages);
      for (int position = 0; position < 600; ++position) {
        const int64_t token = int64_t{batch.page_of(0, position)} * kPageTokens + position % kPageTokens;
        ASSERT_TRUE(same_rows(whole.pool, token, among.pool, token, 1)) << what;
        if (position >= 570) {
          ASSERT_TRUE(same_rows(whole.pool, token, late.pool, token, 1)) << what;
        }
      }
    }
  });
}

TEST(IndexerPrepare, GivesTheSameBitsHoweverTheTokensAreBatchedAndThreaded) {
  for_each_case([](Isa isa, DType dtype, DType form, const Dims& dims, const std::string& what) {
    Prepared prepared(isa, dtype, form, dims);
    const auto fused = IndexerProjection::kFused;
    auto whole = prepared.indexer(1, fused, {{0, 600}}, {1}, kLookAway);
    for (const int threads : {1, 2, 3}) {
      auto among = prepared.indexer(threads, fused, {{17, 1}, {0, 600}, {100, 40}}, {0, 1, 2}, kLookAway);
      auto alone = prepared.indexer(threads, fused, {{599, 1}}, {1}, kLookAway);
      EXPECT_TRUE(same_rows(whole.q, 0, among.q, 1, 600)) << what;
      EXPECT_TRUE(same_rows(whole.q, 599, alone.q, 0, 1)) << what;
      EXPECT_TRUE(same_rows(whole.head_weights, 0, among.head_weights, 1, 600)) << what;
      EXPECT_TRUE(same_rows(whole.head_weights, 599, alone.head_weights, 0, 1)) << what;
      StepBatch batch({{0, 600}}, {1}, Prepared::kSequences, Prepared::kPages);
      for (int page = 0; page < 9; ++page) {  // whole ones
        const int at = batch.page_of(0, page * kPageTokens);
        ASSERT_TRUE(same_rows(whole.pool, at, among.pool, at, 1)) << what;
      }
    }
  });
}

}  // namespace
}  // namespace fulgur
