// What attention needs of the step's tokens: absorbed queries and cache entries.
//
// Two halves with a barrier between: the projections that read x and then, token by token, the norms; and,
// head by head and block of tokens by block, W_qb, rope and UK^T. A head's query of kHeadTokens tokens stays
// in L2 between its two products, so scratch is [tile, q + r + dr] for the first half and [kHeadTokens, dn +
// dr] a thread for the second.
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

constexpr float kLatentEps = 1e-6F;  // docs/spec/model.md, 11.7
constexpr int64_t kTileTokens = 512;
constexpr int64_t kHeadTokens = 48;  // whole groups of tokens of every register block
static_assert(kHeadTokens % kTokenGrain == 0);

/// Tokens [first, first + count) of an operation.
class Tile {
 public:
  Tile(Context& context, const MlaPrepare& op, int64_t first, int64_t count)
      : op_(op), first_(first), count_(count) {
    Arena& arena = *context.arena;
    const MlaWeights& w = op.weights;
    const DType dtype = op.x.dtype;
    has_q_lora_ = w.q_a.present();
    const Weight& first_q = has_q_lora_ ? w.q_a : w.q_b;
    x_for_q_ = allocate_packed(arena, count, op.x.cols, dtype, first_q.form);
    x_for_kv_ = order_for(dtype, w.kv_a.form) == x_for_q_.order
                    ? x_for_q_
                    : allocate_packed(arena, count, op.x.cols, dtype, w.kv_a.form);
    if (has_q_lora_) {
      q_lora_ = arena.matrix<float>(count, w.q_a.rows);
      q_latent_ = allocate_packed(arena, count, w.q_a.rows, dtype, w.q_b.form);
    } else {
      q_latent_ = x_for_q_;
    }
    kv_ = arena.matrix<float>(count, w.kv_a.rows);
    members_ = arena.table<Member>(context.team->size());
    for (int member = 0; member < context.team->size(); ++member) {
      members_[member].query =
          arena.matrix<float>(std::min(count, kHeadTokens), op.shape.nope + op.shape.rope);
      members_[member].nope = arena.allocate(static_cast<size_t>(op.shape.nope) * size_bytes(dtype));
      members_[member].packed_nope =
          allocate_packed(arena, std::min(count, kHeadTokens), op.shape.nope, dtype, w.uk.form);
    }
  }

  [[nodiscard]] int64_t work_bytes() const {
    const MlaWeights& w = op_.weights;
    return (has_q_lora_ ? product_bytes(count_, w.q_a) : 0) + product_bytes(count_, w.q_b) +
           product_bytes(count_, w.kv_a) + product_bytes(count_, w.uk);
  }

  template <typename T>
  void run(const Crew& crew) {
    pack_x<T>(crew);
    crew.barrier();
    project(crew);
    crew.barrier();
    finish_tokens<T>(crew);
    if (has_q_lora_) crew.barrier();
    make_queries<T>(crew);
  }

 private:
  struct Member {
    Matrix<float> query;     // [kHeadTokens, dn + dr] of one head
    void* nope;              // qn of one token, an operand
    PackedRows packed_nope;  // [kHeadTokens, dn]
  };

  template <typename T>
  void pack_x(const Crew& crew) {
    const Share rows = crew.share(count_);
    for (int64_t t = rows.begin; t < rows.end; ++t) {
      const T* x = op_.x.row<const T>(first_ + t);
      pack_row(x_for_q_, t, x);
      if (x_for_kv_.data != x_for_q_.data) pack_row(x_for_kv_, t, x);
    }
  }

  /// Both products of x, as if their outputs lay side by side.
  void project(const Crew& crew) {
    const MlaWeights& w = op_.weights;
    const int64_t q_outputs = has_q_lora_ ? w.q_a.rows : 0;
    const Part part = part_of(crew, count_, q_outputs + w.kv_a.rows);
    if (has_q_lora_) {
      const Share outputs = {std::min(part.outputs.begin, q_outputs), std::min(part.outputs.end, q_outputs)};
      multiply(x_for_q_, part.tokens, w.q_a, outputs, q_lora_.row(part.tokens.begin) + outputs.begin,
               q_lora_.stride);
    }
    const Share outputs = {std::max(part.outputs.begin, q_outputs) - q_outputs,
                           std::max(part.outputs.end, q_outputs) - q_outputs};
    multiply(x_for_kv_, part.tokens, w.kv_a, outputs, kv_.row(part.tokens.begin) + outputs.begin, kv_.stride);
  }

  template <typename T>
  void finish_tokens(const Crew& crew) {
    const Share rows = crew.share(count_);
    for (int64_t t = rows.begin; t < rows.end; ++t) {
      if (has_q_lora_) finish_q_latent<T>(t);
      with_key(op_.latents.dtype, [&](auto element) { finish_entry(t, element); });
    }
  }

  template <typename T>
  void finish_q_latent(int64_t t) {
    const Weight& norm = op_.weights.q_a_norm;
    T* out = op_.q_latent.row<T>(first_ + t);
    with_element(norm.form, [&](auto element) {
      rms_row(q_lora_.row(t), q_lora_.cols, static_cast<const decltype(element)*>(norm.data), kLatentEps,
              out);
    });
    pack_row(q_latent_, t, out);
  }

  template <typename E>
  void finish_entry(int64_t t, E /*element*/) {
    const MlaShape& shape = op_.shape;
    const TokenBatch& batch = op_.batch;
    const int32_t position = batch.position[first_ + t];
    const int32_t page = batch.pages.row(batch.sequence[first_ + t])[position / kPageTokens];
    const int slot = position % kPageTokens;
    float* kv = kv_.row(t);
    const auto norm_into = [&](auto* out) {
      const Weight& norm = op_.weights.kv_a_norm;
      with_element(norm.form, [&](auto element) {
        rms_row(kv, shape.kv_lora, static_cast<const decltype(element)*>(norm.data), kLatentEps, out);
      });
    };
    rotate_at(kv + shape.kv_lora, position);
    if constexpr (std::is_same_v<E, E4m3>) {
      norm_into(kv);
      encode_entry(kv, op_.latents.codes(page, slot));
    } else {
      E* entry = op_.latents.entry<E>(page, slot);
      norm_into(entry);
      round_row(kv + shape.kv_lora, shape.rope, entry + shape.kv_lora);
    }
  }

  /// An entry in FP8 (ops/paged_cache.h) of its values.
  void encode_entry(const float* values, uint8_t* entry) const {
    const int64_t r = op_.shape.kv_lora;
    uint8_t* scales = entry + r;
    for (int64_t begin = 0; begin < r; begin += PagedLatents::kGroup, scales += sizeof(float)) {
      const int64_t size = std::min<int64_t>(PagedLatents::kGroup, r - begin);
      const float scale =
          std::max(largest_magnitude(values + begin, size) / kMostE4m3, std::numeric_limits<float>::min());
      encode_e4m3(values + begin, size, scale, entry + begin);
      std::memcpy(scales, &scale, sizeof scale);
    }
    for_each_vector(op_.shape.rope, [&](int64_t i, auto n) {  // not aligned where r is odd
      Bf16 rounded[kLanes];
      store(rounded, load(values + r + i, n));
      std::memcpy(scales + i * static_cast<int64_t>(sizeof(Bf16)), rounded,
                  static_cast<size_t>(n) * sizeof(Bf16));
    });
  }

  void rotate_at(float* x, int32_t position) const {
    rotate(x, op_.shape.rope / 2, op_.shape.rope_interleave, op_.rope.cos.row(position),
           op_.rope.sin.row(position));
  }

  template <typename T>
  void make_queries(const Crew& crew) {
    const int64_t blocks = (count_ + kHeadTokens - 1) / kHeadTokens;
    const Share items = crew.share(op_.shape.num_heads * blocks);
    for (int64_t item = items.begin; item < items.end; ++item) {
      const int64_t begin = item % blocks * kHeadTokens;
      make_query<T>(members_[crew.member], item / blocks, {begin, std::min(begin + kHeadTokens, count_)});
    }
  }

  template <typename T>
  void make_query(const Member& member, int64_t head, Share tokens) {
    const MlaShape& shape = op_.shape;
    const int64_t width = shape.nope + shape.rope;
    multiply(q_latent_, tokens, op_.weights.q_b, {head * width, (head + 1) * width}, member.query.data,
             width);

    const int64_t column = head * (shape.kv_lora + shape.rope);
    auto* nope = static_cast<T*>(member.nope);
    for (int64_t t = tokens.begin; t < tokens.end; ++t) {
      float* query = member.query.row(t - tokens.begin);
      rotate_at(query + shape.nope, op_.batch.position[first_ + t]);
      round_row(query + shape.nope, shape.rope, op_.q.row<T>(first_ + t) + column + shape.kv_lora);
      round_row(query, shape.nope, nope);
      pack_row(member.packed_nope, t - tokens.begin, nope);
    }
    multiply(member.packed_nope, {0, tokens.end - tokens.begin}, op_.weights.uk,
             {head * shape.kv_lora, (head + 1) * shape.kv_lora}, op_.q.row<T>(first_ + tokens.begin) + column,
             op_.q.stride);
  }

  const MlaPrepare& op_;
  int64_t first_;
  int64_t count_;
  bool has_q_lora_ = false;
  PackedRows x_for_q_;
  PackedRows x_for_kv_;
  Matrix<float> q_lora_;  // [count, q]
  Matrix<float> kv_;      // [count, r + dr]
  PackedRows q_latent_;   // what W_qb multiplies: x itself where q_lora_rank is null
  Member* members_ = nullptr;
};

}  // namespace

void mla_prepare(Context& context, const MlaPrepare& op) {
  for (int64_t first = 0; first < op.x.rows; first += kTileTokens) {
    const ArenaScope scope(*context.arena);
    Tile tile(context, op, first, std::min(kTileTokens, op.x.rows - first));
    with_operand(op.x.dtype, [&](auto element) {
      run_region(context, tile.work_bytes(), [&](const Crew& crew) { tile.run<decltype(element)>(crew); });
    });
  }
}

}  // namespace fulgur::cpu::FULGUR_CPU_ISA
