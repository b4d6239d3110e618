// The lightning indexer's first half: keys, head weights and queries of the step's tokens.
//
// [W_k; W_w] x is one product, or two over its row ranges: an output is a dot product of its own row, so all
// three ways give the same bits. The queries' product doesn't wait for it; after one barrier each token's
// LayerNorm, rope and key are finished. A query head of kHeadTokens tokens is rotated and rounded while it is
// in L1.
//
// Cost: 2 FLOPs a weight and token; each weight is read once a tile (from memory when decoding: that is the
// bound).

#include "kernels/cpu/entries.h"
#include "kernels/cpu/fp8_group.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/kernel.h"
#include "kernels/cpu/rope.h"
#include "kernels/cpu/rows.h"

namespace fulgur::cpu::FULGUR_CPU_ISA {
namespace {

constexpr float kLayerNormEps = 1e-6F;  // docs/spec/model.md, section 4
constexpr float kLeastAmax = 1e-4F;     // of a group that becomes FP8, likewise
constexpr int64_t kTileTokens = 512;
constexpr int64_t kHeadTokens = 48;  // whole groups of tokens of every register block
static_assert(kHeadTokens % kTokenGrain == 0);

/// out = (x - mean) / sqrt(var + eps) * gain + bias, population variance. x and out may be the same.
void layer_norm(const float* x, int64_t size, const Weight& gain, const Weight& bias, float* out) {
  Vec sums = zero();
  for_each_vector(size, [&](int64_t i, auto n) { sums = sums + load(x + i, n); });
  const Vec mean = splat(sum(sums) / static_cast<float>(size));
  for_each_vector(size, [&](int64_t i, auto n) { store(out + i, load(x + i, n) - mean, n); });
  const float variance = sum_of_squares(out, size) / static_cast<float>(size);
  const Vec scale = splat(1.0F / std::sqrt(variance + kLayerNormEps));
  with_element(gain.form, [&](auto gain_element) {
    with_element(bias.form, [&](auto bias_element) {
      const auto* g = static_cast<const decltype(gain_element)*>(gain.data);
      const auto* b = static_cast<const decltype(bias_element)*>(bias.data);
      for_each_vector(size, [&](int64_t i, auto n) {
        store(out + i, load(out + i, n) * scale * load(g + i, n) + load(b + i, n), n);
      });
    });
  });
}

/// Tokens [first, first + count) of an operation.
class Tile {
 public:
  Tile(Context& context, const IndexerPrepare& op, int64_t first, int64_t count)
      : op_(op), first_(first), count_(count) {
    Arena& arena = *context.arena;
    const IndexerWeights& w = op.weights;
    x_ = allocate_packed(arena, count, op.x.cols, op.x.dtype, w.wk_weights_proj.form);
    q_latent_ = allocate_packed(arena, count, op.q_latent.cols, op.q_latent.dtype, w.wq_b.form);
    key_weights_ = arena.matrix<float>(count, w.wk_weights_proj.rows);
    if (fp8()) query_scales_ = arena.matrix<float>(count, op.shape.num_heads);
    queries_ = arena.table<Matrix<float>>(context.team->size());
    for (int member = 0; member < context.team->size(); ++member) {
      queries_[member] = arena.matrix<float>(std::min(count, kHeadTokens), op.shape.head_dim);
    }
  }

  [[nodiscard]] int64_t work_bytes() const {
    return product_bytes(count_, op_.weights.wk_weights_proj) + product_bytes(count_, op_.weights.wq_b);
  }

  void pack(const Crew& crew) {
    pack_part(crew, x_, op_.x);
    pack_part(crew, q_latent_, op_.q_latent);
  }

  /// Outputs [begin, end) of [W_k; W_w] x.
  void project(const Crew& crew, int64_t begin, int64_t end) {
    const Part part = part_of(crew, count_, end - begin);
    const Share outputs = {begin + part.outputs.begin, begin + part.outputs.end};
    multiply(x_, part.tokens, op_.weights.wk_weights_proj, outputs,
             key_weights_.row(part.tokens.begin) + outputs.begin, key_weights_.stride);
  }

  void make_queries(const Crew& crew) {
    const int64_t blocks = (count_ + kHeadTokens - 1) / kHeadTokens;
    const Share items = crew.share(op_.shape.num_heads * blocks);
    for (int64_t item = items.begin; item < items.end; ++item) {
      const int64_t begin = item % blocks * kHeadTokens;
      with_key(op_.q.dtype, [&](auto element) {
        make_query<decltype(element)>(queries_[crew.member], item / blocks,
                                      {begin, std::min(begin + kHeadTokens, count_)});
      });
    }
  }

  void finish_tokens(const Crew& crew) {
    const Share rows = crew.share(count_);
    for (int64_t t = rows.begin; t < rows.end; ++t) {
      finish_head_weights(t);
      make_key(t);
      with_key(op_.keys.dtype, [&](auto element) { store_key(t, element); });
    }
  }

 private:
  [[nodiscard]] bool fp8() const { return op_.keys.dtype == DType::kF8E4M3; }

  void pack_part(const Crew& crew, const PackedRows& packed, const Operand& x) const {
    with_operand(x.dtype, [&](auto element) {
      const Share rows = crew.share(count_);
      for (int64_t t = rows.begin; t < rows.end; ++t) {
        pack_row(packed, t, x.row<const decltype(element)>(first_ + t));
      }
    });
  }

  /// What a key and a head's query go through before they are rounded.
  void rotate_at(float* x, int32_t position) const {
    rotate(x, op_.shape.rope / 2, op_.shape.rope_interleave, op_.rope.cos.row(position),
           op_.rope.sin.row(position));
    if (op_.shape.hadamard) hadamard(x, op_.shape.head_dim);
  }

  /// Rounds a key or a head's query to FP8. Returns its scale.
  float encode(const float* x, uint8_t* codes) const {
    const int64_t dim = op_.shape.head_dim;
    float scale = std::max(largest_magnitude(x, dim), kLeastAmax) / kMostE4m3;
    if (op_.shape.power_of_two_scales) scale = power_of_two_from(scale);
    encode_e4m3(x, dim, scale, codes);
    return scale;
  }

  template <typename T>
  void make_query(const Matrix<float>& query, int64_t head, Share tokens) {
    const int64_t dim = op_.shape.head_dim;
    multiply(q_latent_, tokens, op_.weights.wq_b, {head * dim, (head + 1) * dim}, query.data, dim);
    for (int64_t t = tokens.begin; t < tokens.end; ++t) {
      float* row = query.row(t - tokens.begin);
      rotate_at(row, op_.batch.position[first_ + t]);
      T* out = op_.q.row<T>(first_ + t) + head * dim;
      if constexpr (std::is_same_v<T, E4m3>) {
        query_scales_.row(t)[head] = encode(row, &out->code);
      } else {
        round_row(row, dim, out);
      }
    }
  }

  void finish_head_weights(int64_t t) {
    const IndexerShape& shape = op_.shape;
    const auto scale = static_cast<float>(1.0 / std::sqrt(double{1} * shape.num_heads * shape.head_dim));
    const float* weights = key_weights_.row(t) + shape.head_dim;
    float* out = op_.head_weights.row(first_ + t);
    for (int h = 0; h < shape.num_heads; ++h) out[h] = weights[h] * scale;
    if (!fp8()) return;
    for (int h = 0; h < shape.num_heads; ++h) out[h] *= query_scales_.row(t)[h];
  }

  void make_key(int64_t t) {
    float* key = key_weights_.row(t);
    layer_norm(key, op_.shape.head_dim, op_.weights.k_norm_gain, op_.weights.k_norm_bias, key);
    rotate_at(key, op_.batch.position[first_ + t]);
  }

  [[nodiscard]] int32_t page_of(int64_t t) const {
    const TokenBatch& batch = op_.batch;
    return batch.pages.row(batch.sequence[first_ + t])[batch.position[first_ + t] / kPageTokens];
  }

  void store_key(int64_t t, E4m3 /*element*/) {
    const int64_t slot = op_.batch.position[first_ + t] % kPageTokens;
    const int32_t page = page_of(t);
    op_.keys.scales(page)[slot] = encode(key_weights_.row(t), op_.keys.codes(page) + slot * op_.keys.width);
  }

  template <typename T>
  void store_key(int64_t t, T /*element*/) {
    const int dim = op_.shape.head_dim;
    const float* key = key_weights_.row(t);
    T* out =
        op_.keys.page<T>(page_of(t)) + PagedKeys::offset(0, op_.batch.position[first_ + t] % kPageTokens);
    constexpr int64_t kPairStride = 2 * kPageTokens;
    for (int d = 0; d < dim; d += 2) {
      out[d / 2 * kPairStride] = from_float<T>(key[d]);
      out[d / 2 * kPairStride + 1] = d + 1 < dim ? from_float<T>(key[d + 1]) : T{};
    }
  }

  const IndexerPrepare& op_;
  int64_t first_;
  int64_t count_;
  PackedRows x_;
  PackedRows q_latent_;
  Matrix<float> key_weights_;   // [count, dI + nI]
  Matrix<float> query_scales_;  // [count, nI], of FP8 queries
  Matrix<float>* queries_ = nullptr;
};

void run_tile(Context& context, const IndexerPrepare& op, Tile& tile) {
  const int64_t dim = op.shape.head_dim;
  const int64_t outputs = dim + op.shape.num_heads;
  const int64_t work = tile.work_bytes();
  switch (op.projection) {
    case IndexerProjection::kFused:
      return run_region(context, work, [&](const Crew& crew) {
        tile.pack(crew);
        crew.barrier();
        tile.project(crew, 0, outputs);
        tile.make_queries(crew);
        crew.barrier();
        tile.finish_tokens(crew);
      });
    case IndexerProjection::kOverlapped:
      return run_region(context, work, [&](const Crew& crew) {
        tile.pack(crew);
        crew.barrier();
        tile.project(crew, 0, dim);
        tile.project(crew, dim, outputs);
        tile.make_queries(crew);
        crew.barrier();
        tile.finish_tokens(crew);
      });
    case IndexerProjection::kSeparate:
      run_region(context, work, [&](const Crew& crew) {
        tile.pack(crew);
        crew.barrier();
        tile.project(crew, 0, dim);
      });
      return run_region(context, work, [&](const Crew& crew) {
        tile.project(crew, dim, outputs);
        tile.make_queries(crew);
        crew.barrier();
        tile.finish_tokens(crew);
      });
  }
}

}  // namespace

void indexer_prepare(Context& context, const IndexerPrepare& op) {
  for (int64_t first = 0; first < op.x.rows; first += kTileTokens) {
    const ArenaScope scope(*context.arena);
    Tile tile(context, op, first, std::min(kTileTokens, op.x.rows - first));
    run_tile(context, op, tile);
  }
}

}  // namespace fulgur::cpu::FULGUR_CPU_ISA
