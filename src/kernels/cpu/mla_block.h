#pragma once

// The arithmetic of absorbed attention over cached entries [c ; kp], a block of keys at a time:
//
//   z[s] = scale * q . entry_s     p = exp(z - max)     u = sum_s p[s] c_s / sum_s p[s]
//
// A row is one head of one token. Keys come in blocks, with the running maximum and sum of online softmax: a
// row has the same roundings in any batch, chunk or thread where its blocks begin at the same keys. MlaRows
// go through a block four at a time, sharing each entry that is loaded: kSums dot products, then kSums
// vectors of u, stay in registers. Both products take an entry's even and odd components apart (a shift and a
// mask for bf16, no shuffle), so q and u are kept in that order inside. FP8 entries become f32 (code * scale)
// as their block is gathered.
//
// Cost a row and key: 2r + dr multiply-adds; an entry, 2 (r + dr) bytes, is read from the pool once for all
// heads of the tile.

namespace fulgur::cpu::FULGUR_CPU_ISA {

constexpr int kRowsAtOnce = 4;
constexpr int kSums =
    kVectorRegisters / 2 >= 16 ? 16 : 8;  // FMA latency times rate, and registers to spare for operands
constexpr int kChunk = 2 * kLanes;        // components of an entry taken at once
constexpr int kSparseBlock = 128;
constexpr int kMaxBlock = kSparseBlock;
static_assert(kPageTokens <= kMaxBlock);

/// The elements that `width` components take, up to whole chunks.
inline int64_t whole_chunks(int64_t width) { return (width + kChunk - 1) / kChunk * kChunk; }

/// What sparse and dense attention share: their tokens come in tiles, their heads in groups, a tile and group
/// to a thread.
struct MlaProblem {
  const Operand& q;
  const PagedLatents& latents;
  const TokenBatch& batch;
  const MlaShape& shape;
  float scale;
  const Operand& u;

  [[nodiscard]] int width() const { return shape.kv_lora + shape.rope; }
};

/// An FP8 entry's components, and zeros behind them up to whole chunks.
inline void decode_entry(const PagedLatents& latents, const uint8_t* entry, float* out) {
  const int r = latents.kv_lora();
  const uint8_t* scales = entry + r;
  for (int begin = 0; begin < r; begin += PagedLatents::kGroup, scales += sizeof(float)) {
    float scale = 0;
    std::memcpy(&scale, scales, sizeof scale);
    const int end = std::min(begin + PagedLatents::kGroup, r);
    const Vec scale_of_all = splat(scale);
    int d = begin;
    Bf16 values[kChunk];
    for (; d + kChunk <= end; d += kChunk) {
      decode_e4m3(entry + d, values);
      store(out + d, load(values) * scale_of_all);
      store(out + d + kLanes, load(values + kLanes) * scale_of_all);
    }
    for (; d < end; ++d) out[d] = kE4m3Values[entry[d]] * scale;
  }
  for (int d = r; d < latents.width; ++d, scales += sizeof(Bf16)) {
    Bf16 value;
    std::memcpy(&value, scales, sizeof value);
    out[d] = cpu::to_float(value);
  }
  std::fill(out + latents.width, out + whole_chunks(latents.width), 0.0F);
}

/// The entries of one block. Those whose width is no multiple of kChunk get a zero-padded copy of their last
/// chunk.
template <typename T>
struct EntryBlock {
  const T* entries[kMaxBlock];
  const T* last_chunks[kMaxBlock];
  T padded[kMaxBlock][kChunk];
  int count = 0;
  int width;

  explicit EntryBlock(int width) : width(width) {}
  void clear() { count = 0; }
  /// `decoded` is room for kMaxBlock entries, of FP8 ones alone.
  void add(const PagedLatents& latents, int page, int slot, float* decoded) {
    if constexpr (std::is_same_v<T, float>) {
      if (latents.dtype == DType::kF8E4M3) {
        float* entry = decoded + count * whole_chunks(width);
        decode_entry(latents, latents.codes(page, slot), entry);
        return add(entry);
      }
    }
    add(latents.entry<const T>(page, slot));
  }
  void add(const T* entry) {
    entries[count] = entry;
    const int rest = width % kChunk;
    if (rest != 0) {
      std::fill(padded[count], padded[count] + kChunk, T{});
      std::memcpy(padded[count], entry + (width - rest), static_cast<size_t>(rest) * sizeof(T));
      last_chunks[count] = padded[count];
    }
    ++count;
  }
  /// Components [d, d + kChunk) of each entry, as pointers and an offset to add to each.
  struct Chunk {
    const T* const* from;
    int64_t offset;
  };
  [[nodiscard]] Chunk chunk(int64_t d) const {
    if (d + kChunk <= width) return {entries, d};
    return {last_chunks, 0};
  }
};

/// The rows of a tile, in f32: q and u with each chunk's even components before its odd ones.
struct MlaRows {
  float* q;        // [rows, q_stride]
  float* u;        // [rows, u_stride], divided by sum at the end
  float* maximum;  // [rows]
  float* sum;      // [rows]
  float* decoded;  // [kMaxBlock, q_stride], of FP8 entries
  int64_t q_stride;
  int64_t u_stride;
};

/// z[row * kMaxBlock + key] = the lanes of sums[row][key] added up, four at a time.
template <int kRows, int kKeys>
inline void store_sums(const Vec (&sums)[kRows][kKeys], float* z) {
  constexpr int kCount = kRows * kKeys;
  const Vec* all = &sums[0][0];
  float added[kCount];
  int i = 0;
  for (; i + 4 <= kCount; i += 4) sum4(all[i], all[i + 1], all[i + 2], all[i + 3], added + i);
  for (; i < kCount; ++i) added[i] = cpu::FULGUR_CPU_ISA::sum(all[i]);
  for (int row = 0; row < kRows; ++row) {
    std::memcpy(z + row * kMaxBlock, added + row * kKeys, kKeys * sizeof(float));
  }
}

/// z[row * kMaxBlock + s] = q_row . entry_s for kRows rows and kKeys entries from `s` on.
template <int kRows, int kKeys, typename T>
inline void dot_tile(const float* q, int64_t q_stride, const EntryBlock<T>& block, int s, float* z) {
  Vec sums[kRows][kKeys];
  for (auto& row : sums) {
    for (Vec& sum : row) sum = zero();
  }
  const auto add_chunk = [&](const T* const* entries, int64_t offset, const float* q_chunk) {
    Vec part[kKeys];
    for (int k = 0; k < kKeys; ++k) part[k] = load_even(entries[k] + offset);
    for (int i = 0; i < kRows; ++i) {
      const Vec q_part = in_register(load(q_chunk + i * q_stride));
      for (int k = 0; k < kKeys; ++k) sums[i][k] = fma(q_part, part[k], sums[i][k]);
    }
    for (int k = 0; k < kKeys; ++k) part[k] = load_odd(entries[k] + offset);
    for (int i = 0; i < kRows; ++i) {
      const Vec q_part = in_register(load(q_chunk + i * q_stride + kLanes));
      for (int k = 0; k < kKeys; ++k) sums[i][k] = fma(q_part, part[k], sums[i][k]);
    }
  };
  const T* entries[kKeys];
  for (int k = 0; k < kKeys; ++k) entries[k] = block.entries[s + k];
  int64_t d = 0;
  for (; d + kChunk <= block.width; d += kChunk) add_chunk(entries, d, q + d);
  if (d < block.width) add_chunk(block.last_chunks + s, 0, q + d);
  store_sums<kRows, kKeys>(sums, z + s);
}

template <int kRows, typename T>
inline void dots(const float* q, int64_t q_stride, const EntryBlock<T>& block, float* z) {
  constexpr int kKeys = std::min(kSums / kRows, 4);
  int s = 0;
  for (; s + kKeys <= block.count; s += kKeys) dot_tile<kRows, kKeys>(q, q_stride, block, s, z);
  for (; s < block.count; ++s) dot_tile<kRows, 1>(q, q_stride, block, s, z);
}

/// z becomes p, an operand; maximum and sum take the block in. Returns what u has to be multiplied by.
inline float softmax_block(float* z, int count, float scale, DType operand, bool first, float& maximum,
                           float& sum) {
  const Vec scales = splat(scale);
  Vec largest = splat(-std::numeric_limits<float>::infinity());
  for (int s = 0; s < count; s += kLanes) {
    for (int i = count; i < s + kLanes; ++i) z[i] = -std::numeric_limits<float>::infinity();
    const Vec scaled = load(z + s) * scales;
    largest = max(largest, scaled);
    store(z + s, scaled);
  }
  const float block_maximum = max_lane(largest);
  const float new_maximum = first || maximum < block_maximum ? block_maximum : maximum;
  const Vec maxima = splat(new_maximum);
  Vec sums = zero();
  for (int s = 0; s < count; s += kLanes) {
    const Vec p = exp(load(z + s) - maxima);
    sums = sums + p;
    if (operand == DType::kF32) {
      store(z + s, p);
    } else {
      Bf16 rounded[kLanes];
      store(rounded, p);
      store(z + s, load(rounded));
    }
  }
  const float block_sum = cpu::FULGUR_CPU_ISA::sum(sums);
  float rescale = 1;
  if (!first) {
    float factor[kLanes];
    store(factor, exp(splat(maximum - new_maximum)));
    rescale = factor[0];
  }
  sum = first ? block_sum : sum * rescale + block_sum;
  maximum = new_maximum;
  return rescale;
}

/// u[d, d + kChunks * kChunk) = rescale * u + p C for kRows rows.
template <int kRows, int kChunks, typename T>
inline void add_latents(const float* p, const EntryBlock<T>& block,
                        const typename EntryBlock<T>::Chunk& chunk, bool first, const float* rescale,
                        float* u, int64_t u_stride) {
  constexpr int kVecs = 2 * kChunks;
  Vec sums[kRows][kVecs];
  for (int i = 0; i < kRows; ++i) {
    for (int v = 0; v < kVecs; ++v) {
      sums[i][v] = first ? zero() : load(u + i * u_stride + v * kLanes) * splat(rescale[i]);
    }
  }
  for (int s = 0; s < block.count; ++s) {
    const T* c = chunk.from[s] + chunk.offset;
    Vec parts[kVecs];
    for (int v = 0; v < kChunks; ++v) {
      parts[2 * v] = load_even(c + v * kChunk);
      parts[2 * v + 1] = load_odd(c + v * kChunk);
    }
    for (int i = 0; i < kRows; ++i) {
      const Vec weight = splat(p[i * kMaxBlock + s]);
      for (int v = 0; v < kVecs; ++v) sums[i][v] = fma(weight, parts[v], sums[i][v]);
    }
  }
  for (int i = 0; i < kRows; ++i) {
    for (int v = 0; v < kVecs; ++v) store(u + i * u_stride + v * kLanes, sums[i][v]);
  }
}

/// Takes a block into kRows rows from `row` on.
template <int kRows, typename T>
inline void attend_rows(const MlaProblem& problem, const MlaRows& rows, int64_t row,
                        const EntryBlock<T>& block, bool first) {
  const int kv_lora = problem.shape.kv_lora;
  alignas(64) float z[kRows * kMaxBlock];
  const float* q = rows.q + row * rows.q_stride;
  float* u = rows.u + row * rows.u_stride;
  dots<kRows>(q, rows.q_stride, block, z);
  float rescale[kRows];
  for (int i = 0; i < kRows; ++i) {
    rescale[i] = softmax_block(z + i * kMaxBlock, block.count, problem.scale, problem.q.dtype, first,
                               rows.maximum[row + i], rows.sum[row + i]);
  }
  constexpr int kChunks = std::max(1, std::min(kSums / (2 * kRows), 2));
  int64_t d = 0;
  if constexpr (kChunks > 1) {
    for (; d + kChunks * kChunk <= kv_lora; d += kChunks * kChunk) {
      add_latents<kRows, kChunks>(z, block, block.chunk(d), first, rescale, u + d, rows.u_stride);
    }
  }
  for (; d < kv_lora; d += kChunk)
    add_latents<kRows, 1>(z, block, block.chunk(d), first, rescale, u + d, rows.u_stride);
}

template <typename T>
void attend(const MlaProblem& problem, const MlaRows& rows, int64_t begin, int64_t end,
            const EntryBlock<T>& block, bool first) {
  int64_t row = begin;
  for (; row + kRowsAtOnce <= end; row += kRowsAtOnce)
    attend_rows<kRowsAtOnce>(problem, rows, row, block, first);
  switch (end - row) {
    case 3:
      return attend_rows<3>(problem, rows, row, block, first);
    case 2:
      return attend_rows<2>(problem, rows, row, block, first);
    case 1:
      return attend_rows<1>(problem, rows, row, block, first);
    default:
      return;
  }
}

/// A row's query as the products take it.
template <typename T>
void load_query(const T* q, int width, float* out) {
  int d = 0;
  for (; d + kChunk <= width; d += kChunk) {
    store(out + d, load_even(q + d));
    store(out + d + kLanes, load_odd(q + d));
  }
  if (d == width) return;
  T padded[kChunk] = {};
  std::memcpy(padded, q + d, static_cast<size_t>(width - d) * sizeof(T));
  store(out + d, load_even(padded));
  store(out + d + kLanes, load_odd(padded));
}

/// A row's latents, in their order again, over the sum of its weights.
template <typename T>
void store_latent(const float* u, float sum, int width, T* out) {
  const Vec factor = splat(1.0F / sum);
  for (int d = 0; d < width; d += kChunk) {
    const VecPair pair = interleave(load(u + d) * factor, load(u + d + kLanes) * factor);
    if (d + kChunk <= width) {
      store(out + d, pair.first);
      store(out + d + kLanes, pair.second);
    } else {
      store(out + d, pair.first, width - d);
      if (d + kLanes < width) store(out + d + kLanes, pair.second, width - d - kLanes);
    }
  }
}

}  // namespace fulgur::cpu::FULGUR_CPU_ISA
