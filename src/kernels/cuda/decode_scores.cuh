#pragma once

// The scores of a query row against a block's slice of its sequence's pages (decode), or of one group of rows
// of a sequence after another against theirs, whose pages stand in one list.
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

  /// Of row `row`: which pages are this block's. Meanwhile does `more`, while the page table is on its way.
  /// The caller synchronizes.
  template <typename More>
  __device__ void take_slice(int row, int blocks, int rank, More more) {
    const RowMap& rows = arguments_.rows;
    position_ = rows.position[row];
    const int32_t* table = rows.pages + static_cast<int64_t>(rows.sequence[row]) * rows.page_stride;
    const int length = position_ + 1;
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
  /// Instead: the caller writes the list pages() [num].
  __device__ void take_list(int num) { num_pages_ = num; }
  [[nodiscard]] __device__ int position() const { return position_; }
  [[nodiscard]] __device__ int first_page() const { return first_page_; }
  [[nodiscard]] __device__ int num_pages() const { return num_pages_; }
  [[nodiscard]] __device__ int32_t* pages() const {
    return reinterpret_cast<int32_t*>(shared_ + layout_.pages);
  }

  /// Begins the copies of the first pages of each warpgroup, of at most `stages`, that `is_early(page)`.
  template <typename IsEarly>
  __device__ void fill_ring_early(int stages, IsEarly is_early) {
    const int page = ring_page();
    copied_ = own_stage() < min(stages, layout_.stages) && page < num_pages_ && is_early(page);
    if (copied_) begin_copy(page, own_stage());
  }
  /// Begins the copies of the other first pages.
  __device__ void fill_ring() {
    if (!copied_ && own_stage() < layout_.stages && ring_page() < num_pages_)
      begin_copy(ring_page(), own_stage());
    copied_ = false;
    stage_ = 0;
  }

  /// The queries of rows row_at(0), row_at(1), ... (-1: none) to as many places. Does `more` while they are
  /// on their way; synchronizes.
  template <int kPlaces, typename RowAt, typename More>
  __device__ void load_queries(RowAt row_at, More more) {
    static_assert(kPlaces * kHeads <= kThreads && kRowChunks <= kThreads);
    const int mine = static_cast<int>(threadIdx.x);
    // All is asked for before any of it is waited for.
    const int weight_row = mine < kPlaces * kHeads ? row_at(mine / kHeads) : -1;
    float weight = 0;
    if (weight_row >= 0)
      weight = arguments_.head_weights[weight_row * arguments_.weight_stride + mine % kHeads];
    uint4 chunks[kPlaces];
#pragma unroll
    for (int place = 0; place < kPlaces; ++place) {
      const int row = mine < kRowChunks ? row_at(place) : -1;
      const auto* q = static_cast<const uint8_t*>(arguments_.q) + row * arguments_.q_stride_bytes;
      chunks[place] = row >= 0 ? reinterpret_cast<const uint4*>(q)[mine] : make_uint4(0, 0, 0, 0);
    }
    more();
#pragma unroll
    for (int place = 0; place < kPlaces; ++place) {
      if (mine < kRowChunks && row_at(place) >= 0) {
        store_query_chunk(queries() + place * kQueryBytes, mine / kKeyChunks, mine % kKeyChunks,
                          chunks[place]);
      }
    }
    if (weight_row >= 0) weights()[mine] = weight;
    fence_async_proxy();
    __syncthreads();
  }

  /// Pages [begin, end) of the list, in order from call to call, all of them, against the `count` queries
  /// from `place` on: calls put(row, place in the list, score) for each score, of places behind the rows'
  /// positions too.
  template <typename Put>
  __device__ void run(int place, int count, int begin, int end, Put put) {
    if constexpr (kOneRow) {
      run_one_row(place, begin, end, put);
    } else {
      run_rows(place, count, begin, end, put);
    }
  }

 private:
  __device__ static int group() { return static_cast<int>(threadIdx.x / 128); }
  // Worked out where they are used: registers are scarce.
  __device__ uint8_t* queries() const { return shared_ + layout_.queries; }
  __device__ float* weights() const { return reinterpret_cast<float*>(shared_ + layout_.weights); }
  /// The place in its warpgroup's ring that a thread fills first, and the page.
  __device__ static int own_stage() { return static_cast<int>(threadIdx.x % 128); }
  __device__ static int ring_page() { return group() + own_stage() * kGroups; }
  /// The warpgroup's first page of those from `begin` on.
  __device__ static int first_of_group(int begin) { return begin + ((group() - begin) & (kGroups - 1)); }
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
  __device__ void run_one_row(int first, int begin, int end, Put put) {
    // Each of the four threads that share keys ends up with one of them: which row of which page of two.
    const int quad = static_cast<int>(threadIdx.x % 4);
    const int own_row = key_row() + 8 * (quad % 2);
    const bool owns_second = quad >= 2;
    const uint32_t place = key_place();
    const uint64_t query = swizzled_operand(shared_address(queries() + first * kQueryBytes));
    const HeadWeights<kHeads> head_weights = load_head_weights<kHeads>(weights() + first * kHeads);
#pragma unroll 1
    for (int page = first_of_group(begin); page < end; page += 2 * kGroups) {
      KeyFragment keys;
      float sums[2][kHeads / 2];
      float scale = take_page(page, place, own_row, keys);
      begin_products<kHeads>(keys, query, sums[0]);
      wgmma_wait<0>();
      // The second page, or where there is none the first once more: products under a condition are not
      // overlapped.
      const bool both = page + kGroups < end;
      if (both) {
        const float second_scale = take_page(page + kGroups, place, own_row, keys);
        if (owns_second) scale = second_scale;
      }
      begin_products<kHeads>(keys, query, sums[1]);
      const float first_sum = pair_sum(weigh_heads<kHeads>(sums[0], head_weights));
      __syncwarp();  // keeps ptxas from weighing after the wait
      wgmma_wait<0>();
      const float sum = share_sum(first_sum, pair_sum(weigh_heads<kHeads>(sums[1], head_weights)));
      if (both || !owns_second) {
        put(0, (page + (owns_second ? kGroups : 0)) * kPageKeys + own_row, __fmul_rn(sum, scale));
      }
    }
  }

  template <typename Put>
  __device__ void run_rows(int first, int count, int begin, int end, Put put) {
    const int quad = static_cast<int>(threadIdx.x % 4);
    const int own_row = key_row() + 8 * (quad % 2);
    const uint32_t place = key_place();
    const uint64_t query = swizzled_operand(shared_address(queries() + first * kQueryBytes));
    const float* head_weights = weights() + first * kHeads;
#pragma unroll 1
    for (int page = first_of_group(begin); page < end; page += kGroups) {
      KeyFragment keys;
      const float scale = take_page(page, place, own_row, keys);
#pragma unroll 1
      for (int i = 0; i < count; i += 2) {
        const int second = min(i + 1, count - 1);
        float sums[2][kHeads / 2];
        begin_products<kHeads>(keys, query + i * (kQueryBytes / 16), sums[0]);
        begin_products<kHeads>(keys, query + second * (kQueryBytes / 16), sums[1]);
        wgmma_wait<1>();
        const float first_sum =
            pair_sum(weigh_heads<kHeads>(sums[0], load_head_weights<kHeads>(head_weights + i * kHeads)));
        wgmma_wait<0>();
        const float last_sum =
            pair_sum(weigh_heads<kHeads>(sums[1], load_head_weights<kHeads>(head_weights + second * kHeads)));
        // Of which row each of the four ends up with the sum.
        const float sum = share_sum(first_sum, last_sum);
        const int row = i + quad / 2;
        if (row < count) put(row, page * kPageKeys + own_row, __fmul_rn(sum, scale));
      }
    }
  }

  const ScoreArguments& arguments_;
  const DecodeLayout& layout_;
  uint8_t* shared_;
  int position_ = 0;  // of the row whose slice was taken
  int first_page_ = 0;
  int num_pages_ = 0;
  bool copied_ = false;  // the page that this thread begins with, already
  int stage_ = 0;
  uint32_t phases_ = 0;  // a bit a stage: what its barrier's next phase is
};

}  // namespace fulgur::cuda
