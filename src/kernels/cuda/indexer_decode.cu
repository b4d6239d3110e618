// Decode: scores of a step's few query rows against their sequences' cached keys, and the exact top-k of each
// row, in one kernel; or the scores alone.
//
// A cluster of up to 16 blocks takes up to four consecutive rows of one sequence (a token and its drafts).
// Each block has a contiguous slice of the pages. Four warpgroups take the slice's pages in turn, each
// through a ring of its own in shared memory that bulk copies fill; a page leaves its place for the next as
// soon as its keys are in registers. Scores become ordered keys in shared memory, with one row counted for
// the selection's first pass on the way, and topk_select.cuh does the rest. Rows that may read everything
// aren't scored.
//
// Bytes: 132 (bf16 256) a cached key, once for all rows of a sequence. Shared memory: 4 bytes a score and row
// of the slice, 64 or 128 bytes a head and row, 20 KiB for selecting, the rest the ring, which the selection
// reuses.

#include "kernels/cuda/index_scores.cuh"
#include "kernels/cuda/indexer_launch.h"
#include "kernels/cuda/topk_select.cuh"

namespace fulgur::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kGroups = kThreads / 128;  // warpgroups
constexpr int kMostStages = 4;           // of a warpgroup's ring
constexpr int kMostSlice = 65536;        // survivors are 16-bit places

constexpr int round_up(int value, int to) { return (value + to - 1) / to * to; }

/// What a block's shared memory holds, in bytes from its start.
struct Layout {
  int slice;   // keys of a row
  int stages;  // of each warpgroup
  int queries;
  int pages;
  int keys;
  int histogram;
  int small;
  int ring;
  int barriers;
  int weights;
  int total;
};

/// The second histogram takes the place of the queries, the survivors that of the ring, once all is scored.
constexpr Layout layout_of(IndexForm form, int heads, int rows, int slice, int cluster, bool select) {
  const int second_histogram = static_cast<int>(pass_bins(1)) * 4;
  const int query_bytes = rows * heads * (form == IndexForm::kE4m3 ? 128 : 256);
  Layout layout{};
  layout.slice = slice;
  layout.queries = 0;  // aligned to 1,024 for the swizzle
  layout.weights = round_up(query_bytes > second_histogram ? query_bytes : second_histogram, 1024);
  layout.pages = layout.weights + rows * heads * 4;
  layout.barriers = round_up(layout.pages + slice / kPageKeys * 4, 16);
  layout.small = layout.barriers + kGroups * kMostStages * 8;
  layout.histogram = round_up(layout.small + SelectScratch::words(select ? cluster : 1) * 4, 128);
  layout.keys = layout.histogram + (select ? static_cast<int>(pass_bins(0)) * 4 : 0);
  layout.ring = layout.keys + (select ? rows * slice * 4 : 0);
  const int stage_bytes = kGroups * static_cast<int>(page_bytes(form));
  const int left = static_cast<int>(kMostSharedBytes) - 1024 - layout.ring;
  const int wanted = (slice / kPageKeys + kGroups - 1) / kGroups;
  layout.stages = left / stage_bytes;
  if (layout.stages > kMostStages) layout.stages = kMostStages;
  if (layout.stages > wanted) layout.stages = wanted;
  int ring_bytes = layout.stages * stage_bytes;
  if (select && ring_bytes < slice * 2) ring_bytes = slice * 2;
  layout.total = layout.ring + ring_bytes + 1024;  // the start is aligned by hand
  return layout;
}
constexpr bool fits(const Layout& layout) {
  return layout.stages > 0 && layout.total <= static_cast<int>(kMostSharedBytes) &&
         layout.slice <= kMostSlice;
}

/// Pages of a block's slice of `length` keys.
constexpr int slice_pages(int length, int blocks) {
  const int pages = (length + kPageKeys - 1) / kPageKeys;
  return (pages + blocks - 1) / blocks;
}

enum class Sink { kSelect, kSelectAndDump, kStore };

template <IndexForm kForm, int kHeads, int kRows, Sink kSink>
class Decode {
  using Form = KeyForm<kForm>;
  static constexpr bool kSelects = kSink != Sink::kStore;
  static constexpr int kQueryBytes = kHeads * Form::kRowBytes;
  static constexpr int kRowChunks = kHeads * Form::kChunks;
  static constexpr bool kCountsOnTheWay = kSelects && kRows == 1;

 public:
  __device__ Decode(const DecodeArguments& arguments, const Layout& layout, uint8_t* shared, int blocks,
                    int rank, bool early_keys)
      : arguments_(arguments),
        layout_(layout),
        blocks_(blocks),
        rank_(rank),
        early_keys_(early_keys),
        queries_(shared + layout.queries),
        weights_(reinterpret_cast<float*>(shared + layout.weights)),
        pages_(reinterpret_cast<int32_t*>(shared + layout.pages)),
        barriers_(reinterpret_cast<uint64_t*>(shared + layout.barriers) + group() * kMostStages),
        keys_(reinterpret_cast<uint32_t*>(shared + layout.keys)),
        ring_(shared + layout.ring + group() * layout.stages * Form::kPageBytes),
        select_(SelectScratch{reinterpret_cast<uint32_t*>(shared + layout.histogram),
                              reinterpret_cast<uint32_t*>(shared + layout.queries),
                              reinterpret_cast<uint16_t*>(shared + layout.ring),
                              reinterpret_cast<uint32_t*>(shared + layout.small)},
                static_cast<uint32_t>(blocks), static_cast<uint32_t>(rank)) {
    if (threadIdx.x % 128 == 0) {
      for (int stage = 0; stage < layout.stages; ++stage) mbarrier_init(barriers_ + stage, 1);
      fence_mbarrier_init();
    }
    if constexpr (kSelects) select_.open();
  }

  /// Rows [first, end): run after run of one sequence.
  __device__ void run(int first, int end) {
    const RowMap& rows = arguments_.scores.rows;
    if (!early_keys_) wait();
    while (first < end) {
      int count = 1;
      while (first + count < end && rows.sequence[first + count] == rows.sequence[first]) ++count;
      run_sequence(first, count);
      first += count;
      if (first < end) {
        // The ring and the queries were the selection's; the copy engine and the tensor cores are next.
        fence_async_proxy();
        __syncthreads();
      }
    }
  }

 private:
  __device__ static int group() { return static_cast<int>(threadIdx.x / 128); }

  __device__ void wait() {
    wait_for_predecessor();
    allow_successor();
    waited_ = true;
    if constexpr (kSelects) select_.await_cluster();
  }

  __device__ void run_sequence(int first, int count) {
    const RowMap& rows = arguments_.scores.rows;
    prepare_slice(first, count);
    const bool scored = longest_of(first, count) > static_cast<int>(kSelects ? arguments_.out.topk : 0);
    int early_pages = 0;
    if (!waited_) {
      // Pages that hold no key of this launch's rows.
      const bool begins = first == 0 || rows.sequence[first - 1] != rows.sequence[first];
      if (scored && begins) early_pages = rows.position[first] / kPageKeys;
      fill_ring(0, early_pages);
      wait();
    }
    if (scored) {
      fill_ring(early_pages, num_pages_ + first_page_);
      load_queries(first, count);
      score_slice(first, count);
    }
    if constexpr (kSelects) {
#pragma unroll 1
      for (int i = 0; i < count; ++i) select_row(first + i, i);
    }
  }

  __device__ int longest_of(int first, int count) const {
    return arguments_.scores.rows.position[first + count - 1] + 1;
  }

  /// Which pages are this block's.
  __device__ void prepare_slice(int first, int count) {
    const RowMap& rows = arguments_.scores.rows;
    const int length = longest_of(first, count);
    const int per_block = slice_pages(length, blocks_);
    first_page_ = rank_ * per_block;
    const int all = (length + kPageKeys - 1) / kPageKeys;
    num_pages_ = max(min(all - first_page_, per_block), 0);
    const int32_t* table = rows.pages + static_cast<int64_t>(rows.sequence[first]) * rows.page_stride;
    for (int i = static_cast<int>(threadIdx.x); i < num_pages_; i += kThreads) {
      pages_[i] = table[first_page_ + i];
    }
    if constexpr (kCountsOnTheWay) select_.clear_first();
    __syncthreads();
  }

  /// The copies of the warpgroup's first pages whose number in the sequence is in [from, to).
  __device__ void fill_ring(int from, int to) {
    const int stage = static_cast<int>(threadIdx.x % 128);
    if (stage >= layout_.stages) return;
    const int page = group() + stage * kGroups;
    if (page < num_pages_ && first_page_ + page >= from && first_page_ + page < to) begin_copy(page, stage);
  }
  __device__ void begin_copy(int page, int stage) {
    mbarrier_expect(barriers_ + stage, Form::kPageBytes);
    bulk_copy(ring_ + stage * Form::kPageBytes,
              arguments_.scores.keys + static_cast<int64_t>(pages_[page]) * Form::kPageBytes,
              Form::kPageBytes, barriers_ + stage);
  }

  __device__ void load_queries(int first, int count) {
    const ScoreArguments& scores = arguments_.scores;
    for (int i = static_cast<int>(threadIdx.x); i < count * kRowChunks; i += kThreads) {
      const int row = i / kRowChunks;
      const int chunk = i % kRowChunks;
      const auto* q = static_cast<const uint8_t*>(scores.q) + (first + row) * scores.q_stride_bytes;
      store_query_chunk(queries_ + row * kQueryBytes, kHeads, chunk / Form::kChunks, chunk % Form::kChunks,
                        *reinterpret_cast<const uint4*>(q + chunk * 16));
    }
    for (int i = static_cast<int>(threadIdx.x); i < count * kHeads; i += kThreads) {
      weights_[i] = scores.head_weights[(first + i / kHeads) * scores.weight_stride + i % kHeads];
    }
    fence_async_proxy();
    __syncthreads();
  }

  __device__ void score_slice(int first, int count) {
    const RowMap& rows = arguments_.scores.rows;
    const int first_position = rows.position[first];
    // A thread writes one of its two keys' scores; lanes 2 and 3 of four write none.
    const int quad = static_cast<int>(threadIdx.x % 4);
    const int own_row = key_row() + 8 * quad;
    met_nan_ = 0;
    const uint32_t query = shared_address(queries_);
    int stage = 0;
    for (int page = group(); page < num_pages_; page += kGroups) {
      mbarrier_wait(barriers_ + stage, phases_ >> stage & 1U);
      phases_ ^= 1U << stage;
      KeyFragment<kForm> keys;
      load_keys<kForm>(ring_ + stage * Form::kPageBytes, keys);
      const float2 scale = load_scales<kForm>(ring_ + stage * Form::kPageBytes);
      named_barrier(1 + static_cast<uint32_t>(group()), 128);
      const int next = page + layout_.stages * kGroups;
      if (threadIdx.x % 128 == 0 && next < num_pages_) begin_copy(next, stage);
      stage = stage + 1 == layout_.stages ? 0 : stage + 1;
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        if (kRows > 1 && i >= count) break;
        float sums[kHeads / 2];
        begin_products<kForm, kHeads>(keys, query + i * kQueryBytes, sums);
        wgmma_wait<0>();
        const float2 both = weigh_heads<kHeads>(sums, weights_ + i * kHeads, scale);
        if (quad < 2)
          put(quad == 0 ? both.x : both.y, first, i, page * kPageKeys + own_row, first_position + i);
      }
    }
    __syncthreads();
  }

  /// A score of row `i`, at place `place` of the slice.
  __device__ void put(float score, int first, int i, int place, int last) {
    const int position = first_page_ * kPageKeys + place;
    const bool valid = position <= last;
    if constexpr (kSink != Sink::kSelect) {
      if (valid) arguments_.dump[(first + i) * arguments_.dump_stride + position] = score;
    }
    if constexpr (kSelects) {
      const uint32_t bits = __float_as_uint(score);
      const uint32_t key = valid ? ordered_key(bits) : kAbsentKey;
      keys_[i * layout_.slice + place] = key;
      if (valid) {
        if (is_nan(bits)) met_nan_ |= 1U << i;
        if constexpr (kCountsOnTheWay) select_.count_first(key);
      }
    }
  }

  __device__ void select_row(int row, int i) {
    const RowMap& rows = arguments_.scores.rows;
    const SelectionOutput& out = arguments_.out;
    const int length = rows.position[row] + 1;
    const int32_t* table = rows.pages + static_cast<int64_t>(rows.sequence[row]) * rows.page_stride;
    int32_t* positions = out.positions + static_cast<int64_t>(row) * out.topk;
    int32_t* slots = out.slots == nullptr ? nullptr : out.slots + static_cast<int64_t>(row) * out.topk;
    if (length <= out.topk) {
      if (rank_ == 0) write_all<kThreads>(length, static_cast<uint32_t>(out.topk), table, positions, slots);
      return;
    }
    const uint32_t* keys = keys_ + i * layout_.slice;
    const int begin = first_page_ * kPageKeys;
    const int n = max(min(length - begin, num_pages_ * kPageKeys), 0);
    if constexpr (!kCountsOnTheWay) {
      select_.clear_first();
      __syncthreads();
      for (int k = static_cast<int>(threadIdx.x); k < n; k += kThreads) select_.count_first(keys[k]);
    }
    const bool selected =
        select_.select(keys, n, begin, static_cast<uint32_t>(length), static_cast<uint32_t>(out.topk),
                       (met_nan_ >> i & 1U) != 0, SelectedRow{positions, slots, pages_});
    if (!selected && rank_ == 0) {
      write_all<kThreads>(0, static_cast<uint32_t>(out.topk), table, positions, slots);
      if (threadIdx.x == 0) atomicOr(out.fault + rows.sequence[row], kNanFault);
    }
    if (kRows > 1) __syncthreads();
  }

  const DecodeArguments& arguments_;
  const Layout& layout_;
  const int blocks_;
  const int rank_;
  const bool early_keys_;
  uint8_t* queries_;
  float* weights_;
  int32_t* pages_;
  uint64_t* barriers_;  // the warpgroup's
  uint32_t* keys_;      // [kRows, slice]
  uint8_t* ring_;       // the warpgroup's
  TopkSelect<kThreads> select_;
  int first_page_ = 0;
  int num_pages_ = 0;
  bool waited_ = false;
  uint32_t met_nan_ = 0;  // a bit a row
  uint32_t phases_ = 0;   // a bit a stage: what its barrier's next phase is
};

template <IndexForm kForm, int kHeads, int kRows, Sink kSink>
__global__ void __launch_bounds__(kThreads, 1)
    decode_kernel(const __grid_constant__ DecodeArguments arguments, const __grid_constant__ Layout layout,
                  int blocks, bool early_keys) {
  extern __shared__ uint8_t unaligned[];
  uint8_t* shared = unaligned + (1024 - shared_address(unaligned) % 1024) % 1024;
  const int group_of_rows = static_cast<int>(blockIdx.x) / blocks;
  const int rank = static_cast<int>(blockIdx.x) % blocks;
  Decode<kForm, kHeads, kRows, kSink> decode(arguments, layout, shared, blocks, rank, early_keys);
  __syncthreads();
  const int first = group_of_rows * kRows;
  decode.run(first, min(first + kRows, arguments.scores.rows.num_rows));
}

template <Sink kSink, IndexForm kForm, int kHeads>
auto kernel_for_rows(int rows) {
  switch (rows) {
    case 1:
      return decode_kernel<kForm, kHeads, 1, kSink>;
    case 2:
      return decode_kernel<kForm, kHeads, 2, kSink>;
    default:
      return decode_kernel<kForm, kHeads, 4, kSink>;
  }
}
template <Sink kSink>
auto kernel_for(const DecodeArguments& arguments) {
  const int rows = arguments.tokens_per_sequence;
  if (arguments.form == IndexForm::kE4m3) {
    return arguments.num_heads == 64 ? kernel_for_rows<kSink, IndexForm::kE4m3, 64>(rows)
                                     : kernel_for_rows<kSink, IndexForm::kE4m3, 32>(rows);
  }
  return arguments.num_heads == 64 ? kernel_for_rows<kSink, IndexForm::kBf16, 64>(rows)
                                   : kernel_for_rows<kSink, IndexForm::kBf16, 32>(rows);
}

/// Rows a kernel takes at once: 1, 2 or 4.
int rows_at_once(const DecodeArguments& arguments) {
  return arguments.tokens_per_sequence > 2 ? 4 : arguments.tokens_per_sequence;
}

Layout layout_for(const DecodeArguments& arguments, int blocks, bool select) {
  const int slice = slice_pages(arguments.scores.rows.max_context, blocks) * kPageKeys;
  return layout_of(arguments.form, arguments.num_heads, rows_at_once(arguments), slice, blocks, select);
}

int groups_of(const DecodeArguments& arguments) {
  const int rows = rows_at_once(arguments);
  return (arguments.scores.rows.num_rows + rows - 1) / rows;
}

/// The largest cluster of which one a group of rows runs at once, else the smallest that fits.
int choose_cluster(const DecodeArguments& arguments) {
  for (const int cluster : {16, 12, 10, 8, 6, 5, 4, 3, 2}) {
    const Layout layout = layout_for(arguments, cluster, true);
    if (fits(layout) && groups_of(arguments) * cluster <= kMultiprocessors &&
        groups_of(arguments) <= decode_clusters_at_once(arguments, cluster)) {
      return cluster;
    }
  }
  int cluster = 1;
  while (cluster < kMostCluster && !fits(layout_for(arguments, cluster, true))) ++cluster;
  return cluster;
}

template <Sink kSink>
cudaError_t launch(const DecodeArguments& arguments, int blocks, int cluster, const LaunchOptions& options) {
  const Layout layout = layout_for(arguments, blocks, kSink != Sink::kStore);
  if (!fits(layout)) return cudaErrorInvalidValue;
  const int groups = groups_of(arguments);
  return launch_clusters(kernel_for<kSink>(arguments), dim3(static_cast<unsigned>(groups * blocks)), cluster,
                         kThreads, static_cast<size_t>(layout.total), options, arguments, layout, blocks,
                         options.early_keys);
}

}  // namespace

int decode_clusters_at_once(const DecodeArguments& arguments, int cluster) {
  return clusters_at_once(kernel_for<Sink::kSelect>(arguments), cluster, kThreads,
                          static_cast<size_t>(layout_for(arguments, cluster, true).total));
}

bool decode_fits_at_once(const DecodeArguments& arguments) {
  const int cluster = choose_cluster(arguments);
  return decode_takes(arguments, cluster) &&
         (cluster == 1 || groups_of(arguments) <= decode_clusters_at_once(arguments, cluster));
}

bool decode_takes(const DecodeArguments& arguments, int cluster) {
  const ScoreArguments& scores = arguments.scores;
  const bool shapes = (arguments.num_heads == 64 || arguments.num_heads == 32) &&
                      arguments.tokens_per_sequence >= 1 && arguments.tokens_per_sequence <= 4 &&
                      scores.q_stride_bytes % 16 == 0 && reinterpret_cast<uintptr_t>(scores.q) % 16 == 0 &&
                      reinterpret_cast<uintptr_t>(scores.keys) % 16 == 0;
  return shapes && fits(layout_for(arguments, cluster > 0 ? cluster : kMostCluster, true));
}

cudaError_t launch_decode(const DecodeArguments& arguments, const LaunchOptions& options) {
  const int cluster = options.cluster > 0 ? options.cluster : choose_cluster(arguments);
  return arguments.dump == nullptr ? launch<Sink::kSelect>(arguments, cluster, cluster, options)
                                   : launch<Sink::kSelectAndDump>(arguments, cluster, cluster, options);
}

cudaError_t launch_row_scores(const DecodeArguments& arguments, float* scores, int64_t score_stride,
                              const LaunchOptions& options) {
  const int groups = groups_of(arguments);
  // A page a warpgroup at least, and all multiprocessors.
  const int pages = (arguments.scores.rows.max_context + kPageKeys - 1) / kPageKeys;
  int blocks = kMultiprocessors / groups;
  if (blocks > (pages + kGroups - 1) / kGroups) blocks = (pages + kGroups - 1) / kGroups;
  if (blocks < 1) blocks = 1;
  DecodeArguments store = arguments;
  store.dump = scores;
  store.dump_stride = score_stride;
  return launch<Sink::kStore>(store, blocks, 1, options);
}

}  // namespace fulgur::cuda
