#pragma once

// The scores of a few query rows of one sequence against a block's slice of its pages (decode).
//
// Four warpgroups take the pages in turn, each through a ring of its own in shared memory that bulk copies
// fill; a page leaves its place for the next as soon as its keys are in registers. One row: two sets of sums,
// so that a page is multiplied while the one before is weighed, with the head weights in registers. More rows
// (drafts): the page's keys stay in registers, two rows at once.
//
// Cost of a page and row: index_scores.cuh; of shared memory 64 reads of 128 bytes for the keys and as many
// for the query.

#include "kernels/cuda/decode_layout.h"
#include "kernels/cuda/index_scores.cuh"

namespace fulgur::cuda {

template <int kHeads, bool kOneRow>
class DecodeScores {
  static constexpr int kThreads = kDecodeThreads;
  static constexpr int kGroups = kDecodeGroups;
  static constexpr int kQueryBytes = kHeads * kKeyBytes;
  static constexpr int kRowChunks = kHeads * kKeyChunks;

 public:
  __device__ DecodeScores(const ScoreArguments& arguments, const DecodeLayout& layout, uint8_t* shared)
      : arguments_(arguments), layout_(layout), shared_(shared) {}

  /// First of all, by all threads, which then synchronize.
  __device__ void open() const {
    if (threadIdx.x % 128 != 0) return;
#pragma unroll 1
    for (int stage = 0; stage < layout_.stages; ++stage) {
      mbarrier_init(full(stage), 1);
      mbarrier_init(empty(stage), 4);  // warps
    }
    fence_mbarrier_init();
  }

  /// Rows [first, first + count) of one sequence: which pages are this block's. Meanwhile does `more`, while
  /// the page table is on its way. The caller synchronizes.
  template <typename More>
  __device__ void take_slice(int first, int count, int blocks, int rank, More more) {
    const RowMap& rows = arguments_.rows;
    first_position_ = rows.position[first];
    const int32_t* table = rows.pages + static_cast<int64_t>(rows.sequence[first]) * rows.page_stride;
    const int length = first_position_ + count;
    const int per_block = slice_pages(length, blocks);
    first_page_ = rank * per_block;
    const int all = (length + kPageKeys - 1) / kPageKeys;
    num_pages_ = max(min(all - first_page_, per_block), 0);
    const int mine = static_cast<int>(threadIdx.x);
    int32_t page = 0;
    if (mine < num_pages_) page = table[first_page_ + mine];
    more();
    if (mine < num_pages_) pages()[mine] = page;
    for (int i = mine + kThreads; i < num_pages_; i += kThreads) pages()[i] = table[first_page_ + i];
  }
  [[nodiscard]] __device__ int first_position() const { return first_position_; }
  [[nodiscard]] __device__ int first_page() const { return first_page_; }
  [[nodiscard]] __device__ int num_pages() const { return num_pages_; }
  [[nodiscard]] __device__ int32_t* pages() const {
    return reinterpret_cast<int32_t*>(shared_ + layout_.pages);
  }

  /// Begins the copies of the first pages of each warpgroup, of at most `stages`, that hold no key of
  /// position `before` or a later one.
  __device__ void fill_ring_early(int before, int stages) {
    early_pages_ = before / kPageKeys;
    early_stages_ = stages;
    fill_ring(true);
  }

  /// Begins the copies of the other first pages, too: `pages_first` or behind the queries.
  __device__ void load_queries(int first, int count, bool pages_first) {
    if (pages_first) fill_ring(false);
    static_assert(kMostDecodeRows * kHeads <= kThreads);
    const int mine = static_cast<int>(threadIdx.x);
    const auto chunk_at = [&](int i) {
      const auto* q =
          static_cast<const uint8_t*>(arguments_.q) + (first + i / kRowChunks) * arguments_.q_stride_bytes;
      return *reinterpret_cast<const uint4*>(q + i % kRowChunks * 16);
    };
    // All is asked for before any of it is waited for.
    float weight = 0;
    if (mine < count * kHeads) {
      weight = arguments_.head_weights[(first + mine / kHeads) * arguments_.weight_stride + mine % kHeads];
    }
    uint4 next = make_uint4(0, 0, 0, 0);
    if (mine < count * kRowChunks) next = chunk_at(mine);
    if (!pages_first) fill_ring(false);
    for (int i = mine; i < count * kRowChunks; i += kThreads) {
      const uint4 chunk = next;
      if (i + kThreads < count * kRowChunks) next = chunk_at(i + kThreads);
      store_query_chunk(queries() + i / kRowChunks * kQueryBytes, i % kRowChunks / kKeyChunks, i % kKeyChunks,
                        chunk);
    }
    if (mine < count * kHeads) weights()[mine] = weight;
    fence_async_proxy();
    __syncthreads();
    early_pages_ = 0;
  }

  /// Calls put(row, place in the slice, score) for each score, of places behind the rows' positions too.
  template <typename Put>
  __device__ void run(int count, Put put) {
    stage_ = 0;
    if constexpr (kOneRow) {
      run_one_row(put);
    } else {
      run_rows(count, put);
    }
  }

 private:
  __device__ static int group() { return static_cast<int>(threadIdx.x / 128); }
  // Worked out where they are used: registers are scarce.
  __device__ uint8_t* queries() const { return shared_ + layout_.queries; }
  __device__ float* weights() const { return reinterpret_cast<float*>(shared_ + layout_.weights); }
  __device__ void fill_ring(bool early) const {
    const int stage = static_cast<int>(threadIdx.x % 128);
    const int page = group() + stage * kGroups;
    if (stage >= layout_.stages || page >= num_pages_) return;
    if (early == (stage < early_stages_ && first_page_ + page < early_pages_)) begin_copy(page, stage);
  }
  /// The warpgroup's.
  __device__ uint64_t* full(int stage) const {
    return reinterpret_cast<uint64_t*>(shared_ + layout_.barriers) + (group() * kMostStages + stage) * 2;
  }
  __device__ uint64_t* empty(int stage) const { return full(stage) + 1; }
  __device__ uint8_t* page_in_ring(int stage) const {
    return shared_ + layout_.ring + (group() * layout_.stages + stage) * kPageBytes;
  }
  __device__ void begin_copy(int page, int stage) const {
    mbarrier_expect(full(stage), kPageBytes);
    bulk_copy_once(page_in_ring(stage), arguments_.keys + static_cast<int64_t>(pages()[page]) * kPageBytes,
                   kPageBytes, full(stage));
  }

  /// Page `page` of the slice, the warpgroup's next: its keys, and the scale of key `row`.
  __device__ float take_page(int page, uint32_t place, int row, KeyFragment& keys) {
    const uint8_t* bytes = page_in_ring(stage_);
    const uint32_t phase = phases_ >> stage_ & 1U;
    phases_ ^= 1U << stage_;
    mbarrier_wait(full(stage_), phase);
    load_keys(bytes, place, keys);
    const float scale = load_scale(bytes, row);
    __syncwarp();
    if (threadIdx.x % 32 == 0) mbarrier_arrive(empty(stage_));
    const int next = page + layout_.stages * kGroups;
    if (threadIdx.x % 128 == 0 && next < num_pages_) {
      mbarrier_wait(empty(stage_), phase);
      begin_copy(next, stage_);
    }
    stage_ = stage_ + 1 == layout_.stages ? 0 : stage_ + 1;
    return scale;
  }

  template <typename Put>
  __device__ void run_one_row(Put put) {
    // Each of the four threads that share keys ends up with one of them: which row of which page of two.
    const int quad = static_cast<int>(threadIdx.x % 4);
    const int own_row = key_row() + 8 * (quad % 2);
    const bool owns_second = quad >= 2;
    const uint32_t place = key_place();
    const uint64_t query = swizzled_operand(shared_address(queries()));
    const HeadWeights<kHeads> head_weights = load_head_weights<kHeads>(weights());
#pragma unroll 1
    for (int page = group(); page < num_pages_; page += 2 * kGroups) {
      KeyFragment keys;
      float sums[2][kHeads / 2];
      float scale = take_page(page, place, own_row, keys);
      begin_products<kHeads>(keys, query, sums[0]);
      wgmma_wait<0>();
      // The second page, or where there is none the first once more: products under a condition are not
      // overlapped.
      const bool both = page + kGroups < num_pages_;
      if (both) {
        const float second_scale = take_page(page + kGroups, place, own_row, keys);
        if (owns_second) scale = second_scale;
      }
      begin_products<kHeads>(keys, query, sums[1]);
      const float first = pair_sum(weigh_heads<kHeads>(sums[0], head_weights));
      __syncwarp();  // keeps ptxas from weighing after the wait
      wgmma_wait<0>();
      const float sum = share_sum(first, pair_sum(weigh_heads<kHeads>(sums[1], head_weights)));
      if (both || !owns_second) {
        put(0, (page + (owns_second ? kGroups : 0)) * kPageKeys + own_row, __fmul_rn(sum, scale));
      }
    }
  }

  template <typename Put>
  __device__ void run_rows(int count, Put put) {
    const int quad = static_cast<int>(threadIdx.x % 4);
    const int own_row = key_row() + 8 * (quad % 2);
    const uint32_t place = key_place();
    const uint64_t query = swizzled_operand(shared_address(queries()));
#pragma unroll 1
    for (int page = group(); page < num_pages_; page += kGroups) {
      KeyFragment keys;
      const float scale = take_page(page, place, own_row, keys);
#pragma unroll 1
      for (int i = 0; i < count; i += 2) {
        const int second = min(i + 1, count - 1);
        float sums[2][kHeads / 2];
        begin_products<kHeads>(keys, query + i * (kQueryBytes / 16), sums[0]);
        begin_products<kHeads>(keys, query + second * (kQueryBytes / 16), sums[1]);
        wgmma_wait<1>();
        const float first =
            pair_sum(weigh_heads<kHeads>(sums[0], load_head_weights<kHeads>(weights() + i * kHeads)));
        wgmma_wait<0>();
        const float last =
            pair_sum(weigh_heads<kHeads>(sums[1], load_head_weights<kHeads>(weights() + second * kHeads)));
        // Of which row each of the four ends up with the sum.
        const float sum = share_sum(first, last);
        const int row = i + quad / 2;
        if (row < count) put(row, page * kPageKeys + own_row, __fmul_rn(sum, scale));
      }
    }
  }

  const ScoreArguments& arguments_;
  const DecodeLayout& layout_;
  uint8_t* shared_;
  int first_position_ = 0;
  int first_page_ = 0;
  int num_pages_ = 0;
  int early_pages_ = 0;  // copied, or being copied
  int early_stages_ = 0;
  int stage_ = 0;
  uint32_t phases_ = 0;  // a bit a stage: what its barrier's next phase is
};

}  // namespace fulgur::cuda
