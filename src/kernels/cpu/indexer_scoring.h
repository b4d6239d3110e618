#pragma once

// The arithmetic of an index score, for every kernel that needs one:
//
//   score[s] = sum_h w[h] * max(0, q[h] . k[s])
//
// Lanes are keys: a page holds 64 of them side by side, so a vector of keys meets a broadcast component of q,
// and nothing is ever summed across lanes. Each score is one chain over the components of each head and one
// over the heads, in their order, whoever computes it and with how many others: a decoded token and a prompt
// get the same bits. kHeadsAtOnce x kVecsAtOnce sums stay in registers; the bf16 of a page become f32 by one
// shift or mask each. A page costs 64 * nI * dI multiply-adds a row and is read from L1 for every row of a
// tile but the first.
//
// A page of FP8 keys becomes one of bf16, which hold every code, once for all rows of a tile; the scores are
// then multiplied by the keys' scales.

namespace fulgur::cpu::FULGUR_CPU_ISA {

constexpr int kHeadsAtOnce = 4;
/// Two vectors of keys make 8 sums: two FMAs a cycle, 4 cycles each, and room in 16 registers for what they
/// multiply.
constexpr int kVecsAtOnce = kVectorRegisters >= 32 ? 4 : 2;

/// The queries of a few rows as the scoring takes them: f32, an even number of components a head.
class IndexerQueries {
 public:
  IndexerQueries(const IndexerShape& shape, float* data)
      : heads_(shape.num_heads),
        dim_(shape.head_dim),
        head_stride_((shape.head_dim + 1) / 2 * 2),
        data_(data) {}

  /// Elements that `rows` rows take.
  static int64_t elements(const IndexerShape& shape, int64_t rows) {
    return rows * shape.num_heads * ((shape.head_dim + 1) / 2 * 2);
  }
  void load_row(int row, const Operand& q, int64_t q_row) const {
    with_key(q.dtype, [&](auto element) { widen(row, q.row<decltype(element)>(q_row)); });
  }
  [[nodiscard]] const float* row(int row) const { return data_ + int64_t{row} * heads_ * head_stride_; }
  [[nodiscard]] int heads() const { return heads_; }
  [[nodiscard]] int64_t head_stride() const { return head_stride_; }

 private:
  template <typename T>
  void widen(int row, const T* q) const {
    float* out = data_ + int64_t{row} * heads_ * head_stride_;
    for (int h = 0; h < heads_; ++h, q += dim_, out += head_stride_) {
      out[head_stride_ - 1] = 0;
      int d = 0;
      if constexpr (std::is_same_v<T, E4m3>) {
        Bf16 values[2 * kLanes];
        for (; d + 2 * kLanes <= dim_; d += 2 * kLanes) {
          decode_e4m3(reinterpret_cast<const uint8_t*>(q + d), values);
          store(out + d, load(values));
          store(out + d + kLanes, load(values + kLanes));
        }
      } else {
        for (; d + kLanes <= dim_; d += kLanes) store(out + d, load(q + d));
      }
      for (; d < dim_; ++d) out[d] = cpu::to_float(q[d]);
    }
  }

  int heads_;
  int dim_;
  int64_t head_stride_;
  float* data_;
};

/// scores[0, kVecsAtOnce * kLanes) += the share of kHeads heads; `keys` is the first of these keys in the
/// page.
template <int kHeads, typename T>
inline void add_heads(const float* q, int64_t head_stride, const float* head_weights, const T* keys,
                      float* scores) {
  constexpr int64_t kPairStride = 2 * kPageTokens;
  Vec sums[kHeads][kVecsAtOnce];
  for (auto& head : sums) {
    for (Vec& sum : head) sum = zero();
  }
  for (int64_t d = 0; d < head_stride; d += 2, keys += kPairStride) {
    Vec even[kVecsAtOnce];
    Vec odd[kVecsAtOnce];
    for (int v = 0; v < kVecsAtOnce; ++v) {
      even[v] = load_even(keys + 2 * v * kLanes);
      odd[v] = load_odd(keys + 2 * v * kLanes);
    }
    for (int h = 0; h < kHeads; ++h) {
      const Vec component = splat(q[h * head_stride + d]);
      for (int v = 0; v < kVecsAtOnce; ++v) sums[h][v] = fma(component, even[v], sums[h][v]);
    }
    for (int h = 0; h < kHeads; ++h) {
      const Vec component = splat(q[h * head_stride + d + 1]);
      for (int v = 0; v < kVecsAtOnce; ++v) sums[h][v] = fma(component, odd[v], sums[h][v]);
    }
  }
  for (int v = 0; v < kVecsAtOnce; ++v) {
    Vec score = load(scores + v * kLanes);
    for (int h = 0; h < kHeads; ++h) {
      score = fma(splat(head_weights[h]), max(zero(), sums[h][v]), score);  // max in this order keeps a NaN
    }
    store(scores + v * kLanes, score);
  }
}

/// The scores of one row against all 64 slots of a page, whatever lies in those that aren't filled. Never a
/// part of its caller, with whose values its sums would have to share the registers.
template <typename T>
[[gnu::noinline]] void score_page(const IndexerQueries& queries, int row, const float* head_weights,
                                  const T* page, float* scores) {
  constexpr int kStep = kVecsAtOnce * kLanes;
  static_assert(kPageTokens % kStep == 0);
  const int heads = queries.heads();
  const int64_t head_stride = queries.head_stride();
  for (int slot = 0; slot < kPageTokens; slot += kStep) {
    const float* q = queries.row(row);
    const T* keys = page + int64_t{2} * slot;
    for (int v = 0; v < kVecsAtOnce; ++v) store(scores + slot + v * kLanes, zero());
    int h = 0;
    for (; h + kHeadsAtOnce <= heads; h += kHeadsAtOnce) {
      add_heads<kHeadsAtOnce>(q + h * head_stride, head_stride, head_weights + h, keys, scores + slot);
    }
    for (; h < heads; ++h)
      add_heads<1>(q + h * head_stride, head_stride, head_weights + h, keys, scores + slot);
  }
}

/// A page of FP8 keys as one of bf16: page_elements() of them. Eight pairs of components of all slots are
/// turned round as codes, which are half as many bytes, and decoded in one go.
inline void decode_page(const PagedKeys& keys, int page, Bf16* out) {
  constexpr int64_t kPairStride = 2 * kPageTokens;
  constexpr int kPairs = 8;
  static_assert(kPairs * kPairStride % (2 * kLanes) == 0);
  const uint8_t* codes = keys.codes(page);
  int d = 0;
  for (; d + 2 * kPairs <= keys.width; d += 2 * kPairs, out += kPairs * kPairStride) {
    uint8_t turned[kPairs * kPairStride];
    for (int64_t slot = 0; slot < kPageTokens; slot += 8)
      transpose_pairs(codes + slot * keys.width + d, keys.width, turned + 2 * slot, kPairStride);
    for (int64_t i = 0; i < kPairs * kPairStride; i += 2 * kLanes) decode_e4m3(turned + i, out + i);
  }
  for (; d < keys.width; d += 2, out += kPairStride) {
    for (int64_t slot = 0; slot < kPageTokens; ++slot) {
      const uint8_t* pair = codes + slot * keys.width + d;
      out[2 * slot] = {kE4m3Bits[pair[0]]};
      out[2 * slot + 1] = d + 1 < keys.width ? Bf16{kE4m3Bits[pair[1]]} : Bf16{};
    }
  }
}

/// The scores of a page's codes become those of its keys.
inline void scale_scores(const float* key_scales, float* scores) {
  for (int slot = 0; slot < kPageTokens; slot += kLanes) {
    store(scores + slot, load(scores + slot) * load(key_scales + slot));
  }
}

/// f(page, finish) with page `page` of the keys as score_page takes it; finish(scores) makes what that leaves
/// the scores. `decoded` is room for a page of bf16, of FP8 keys alone. `element` is of the dtype of the
/// keys.
template <typename T, typename F>
inline void with_page(const PagedKeys& keys, T /*element*/, int page, Bf16* decoded, F&& f) {
  if constexpr (std::is_same_v<T, E4m3>) {
    decode_page(keys, page, decoded);
    f(static_cast<const Bf16*>(decoded), [&](float* scores) { scale_scores(keys.scales(page), scores); });
  } else {
    f(keys.page<const T>(page), [](float* /*scores*/) {});
  }
}

}  // namespace fulgur::cpu::FULGUR_CPU_ISA
