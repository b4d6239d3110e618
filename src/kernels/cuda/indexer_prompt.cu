// Scores of a prompt's many rows: each block keeps the keys of a few pages in registers and streams query
// rows past them.
//
// A kernel of its own lays the queries out for the matrix unit once; then a block takes 512 positions and 32
// rows. Its four warpgroups hold two pages each as the A operand; queries are copied
// into two buffers of four rows by turns. A warpgroup has two products under way, and weighs the heads of one
// while the other is made.
//
// Cost: 64 * heads * 128 multiply-adds a page and row (index_scores.cuh), 4 bytes written a score; keys are
// read once for 32 rows, queries once for 512 keys, both from L2.

#include "kernels/cuda/index_scores.cuh"
#include "kernels/cuda/indexer_launch.h"

namespace fulgur::cuda {
namespace {

constexpr int kRowsPerBlock = 32;  // more, and the last blocks of a chunk keep the others waiting

template <int kHeads>
struct Shape {
  static constexpr int kPages = 2;   // of a warpgroup
  static constexpr int kGroups = 4;  // warpgroups, by their registers
  static constexpr int kThreads = kGroups * 128;
  static constexpr int kBlockPages = kPages * kGroups;
  static constexpr int kQueryBytes = kHeads * kKeyBytes;
  static constexpr int kBatch = 4;  // rows of a buffer
  static constexpr int kQueryOffset = 0;
  static constexpr int kPageOffset = kQueryOffset + 2 * kBatch * kQueryBytes;
  static constexpr int kWeightOffset = kPageOffset + kBlockPages * kPageBytes;
  static constexpr int kBarrierOffset = kWeightOffset + 2 * kBatch * kHeads * 4;
  static constexpr int kSharedBytes = kBarrierOffset + kBlockPages * 8 + 4 * 8 + 1024;
};

struct PromptArguments {
  ScoreArguments scores;
  uint8_t* laid_out;  // [rows][kQueryBytes] queries, then [rows][kHeads] head weights
  float* out;
  int64_t out_stride;
};

/// Row by row: the queries as B wants them, the weights side by side.
template <int kHeads>
__global__ void __launch_bounds__(512) lay_out_kernel(const __grid_constant__ PromptArguments arguments) {
  using S = Shape<kHeads>;
  wait_for_predecessor();
  allow_successor();
  const ScoreArguments& scores = arguments.scores;
  const int64_t row = blockIdx.x;
  const uint8_t* q = static_cast<const uint8_t*>(scores.q) + row * scores.q_stride_bytes;
  for (int i = static_cast<int>(threadIdx.x); i < kHeads * kKeyChunks; i += 512) {
    store_query_chunk(arguments.laid_out + row * S::kQueryBytes, i / kKeyChunks, i % kKeyChunks,
                      *reinterpret_cast<const uint4*>(q + i * 16));
  }
  if (threadIdx.x < kHeads) {
    float* weights =
        reinterpret_cast<float*>(arguments.laid_out + int64_t{scores.rows.num_rows} * S::kQueryBytes);
    weights[row * kHeads + threadIdx.x] = scores.head_weights[row * scores.weight_stride + threadIdx.x];
  }
}

template <int kHeads>
class PromptScores {
  using S = Shape<kHeads>;

 public:
  __device__ PromptScores(const PromptArguments& arguments, uint8_t* shared)
      : arguments_(arguments),
        queries_(shared + S::kQueryOffset),
        pages_(shared + S::kPageOffset),
        weights_(reinterpret_cast<float*>(shared + S::kWeightOffset)),
        barriers_(reinterpret_cast<uint64_t*>(shared + S::kBarrierOffset)),
        first_page_(static_cast<int>(blockIdx.x) * S::kBlockPages) {
    if (threadIdx.x == 0) {
      for (int i = 0; i < S::kBlockPages; ++i) mbarrier_init(barriers_ + i, 1);
      for (int i = 0; i < 2; ++i) {
        mbarrier_init(full(i), 1);
        mbarrier_init(empty(i), S::kThreads / 32);
      }
      fence_mbarrier_init();
    }
  }

  __device__ void run(int first, int end) {
    const RowMap& rows = arguments_.scores.rows;
    while (first < end) {
      int count = 1;
      while (first + count < end && rows.sequence[first + count] == rows.sequence[first]) ++count;
      // Positions of a sequence's rows are consecutive: those before these pages, or of rows that need no
      // scores, come first.
      const int from = max(first_page_ * kPageKeys, arguments_.scores.unscored);
      const int skipped = max(from - rows.position[first], 0);
      if (skipped < count) run_sequence(first + skipped, count - skipped);
      first += count;
    }
  }

 private:
  __device__ static int group() { return static_cast<int>(threadIdx.x / 128); }
  __device__ uint64_t* full(int buffer) const { return barriers_ + S::kBlockPages + buffer; }
  __device__ uint64_t* empty(int buffer) const { return barriers_ + S::kBlockPages + 2 + buffer; }

  /// Copies the next batch's queries, of which `count` remain, into its buffer once all are done with it. By
  /// one thread.
  __device__ void fetch(int batch, int first, int count) {
    const int buffer = batch & 1;
    const uint8_t* queries = arguments_.laid_out;
    const uint8_t* weights = queries + int64_t{arguments_.scores.rows.num_rows} * S::kQueryBytes;
    const int rows = min(count, S::kBatch);
    mbarrier_wait(empty(buffer), (batch >> 1 & 1) ^ 1);
    mbarrier_expect(full(buffer), rows * (S::kQueryBytes + kHeads * 4));
    bulk_copy(queries_ + buffer * S::kBatch * S::kQueryBytes, queries + int64_t{first} * S::kQueryBytes,
              rows * S::kQueryBytes, full(buffer));
    bulk_copy(weights_ + buffer * S::kBatch * kHeads, weights + int64_t{first} * kHeads * 4,
              rows * kHeads * 4, full(buffer));
  }

  __device__ void run_sequence(int first, int count) {
    const RowMap& rows = arguments_.scores.rows;
    const int first_position = rows.position[first];
    const int last_position = first_position + count - 1;
    const int32_t* table = rows.pages + static_cast<int64_t>(rows.sequence[first]) * rows.page_stride;
    __syncthreads();  // the pages of the sequence before are done with
    const int mine = static_cast<int>(threadIdx.x);
    if (mine < S::kBlockPages && (first_page_ + mine) * kPageKeys <= last_position) {
      mbarrier_expect(barriers_ + mine, kPageBytes);
      bulk_copy(pages_ + mine * kPageBytes,
                arguments_.scores.keys + static_cast<int64_t>(table[first_page_ + mine]) * kPageBytes,
                kPageBytes, barriers_ + mine);
    }
    if (threadIdx.x == 0) fetch(batch_, first, count);
    const uint32_t place = key_place();
    KeyFragment keys[S::kPages] = {};
#pragma unroll
    for (int p = 0; p < S::kPages; ++p) {
      const int page = group() * S::kPages + p;
      if ((first_page_ + page) * kPageKeys <= last_position) {
        mbarrier_wait(barriers_ + page, phases_ >> p & 1U);
        phases_ ^= 1U << p;
        load_keys(pages_ + page * kPageBytes, place, keys[p]);
      }
    }
    for (int begin = 0; begin < count; begin += S::kBatch, ++batch_) {
      const int buffer = batch_ & 1;
      const int next = begin + S::kBatch;
      if (threadIdx.x == 0 && next < count) fetch(batch_ + 1, first + next, count - next);
      __syncwarp();
      mbarrier_wait(full(buffer), batch_ >> 1 & 1);
      score_batch(keys, buffer, first + begin, first_position + begin, min(count - begin, S::kBatch));
      __syncwarp();
      if (threadIdx.x % 32 == 0) mbarrier_arrive(empty(buffer));
    }
  }

  __device__ void score_batch(const KeyFragment (&keys)[S::kPages], int buffer, int first_row,
                              int first_position, int count) {
    const uint64_t queries = swizzled_operand(shared_address(queries_) + buffer * S::kBatch * S::kQueryBytes);
    const float* weights = weights_ + buffer * S::kBatch * kHeads;
    // Each of the four threads that share keys ends up with one score of two products': of a query with two
    // pages.
    const int quad = static_cast<int>(threadIdx.x % 4);
    const int own_key = key_row() + 8 * (quad % 2);
    const int own_page = quad / 2;
    const uint8_t* page = pages_ + (group() * S::kPages + own_page) * kPageBytes;
    const int position = (first_page_ + group() * S::kPages + own_page) * kPageKeys + own_key;
    const float scale = load_scale(page, own_key);
    float* out = arguments_.out + first_row * arguments_.out_stride + position;
    // All rows of the buffer, also those behind `count`, whose scores go nowhere; a product is under way
    // while the one before is weighed.
    constexpr int kProducts = S::kBatch * S::kPages;
    float sums[2][kHeads / 2];
    const auto begin = [&](int i) {
      begin_products<kHeads>(keys[i % S::kPages], queries + i / S::kPages * (S::kQueryBytes / 16),
                             sums[i % 2]);
    };
    begin(0);
    begin(1);
    float first = 0;
    HeadWeights<kHeads> head_weights;
#pragma unroll
    for (int i = 0; i < kProducts; ++i) {
      if (i % S::kPages == 0) head_weights = load_head_weights<kHeads>(weights + i / S::kPages * kHeads);
      if (i + 1 < kProducts) {
        wgmma_wait<1>();
      } else {
        wgmma_wait<0>();
      }
      const float pair = pair_sum(weigh_heads<kHeads>(sums[i % 2], head_weights));
      if (i + 2 < kProducts) begin(i + 2);
      if (i % 2 == 0) {
        first = pair;
        continue;
      }
      const float sum = share_sum(first, pair);
      const int query = (i - 1) / S::kPages;
      if (query < count && position <= first_position + query) {
        out[query * arguments_.out_stride] = __fmul_rn(sum, scale);
      }
    }
  }

  const PromptArguments& arguments_;
  uint8_t* queries_;
  uint8_t* pages_;
  float* weights_;
  uint64_t* barriers_;
  const int first_page_;
  uint32_t phases_ = 0;  // a bit for each of the warpgroup's pages
  int batch_ = 0;        // of all sequences
};

template <int kHeads>
__global__ void __launch_bounds__(Shape<kHeads>::kThreads, 1)
    prompt_scores_kernel(const __grid_constant__ PromptArguments arguments) {
  extern __shared__ uint8_t unaligned[];
  uint8_t* shared = unaligned + (1024 - shared_address(unaligned) % 1024) % 1024;
  PromptScores<kHeads> scores(arguments, shared);
  __syncthreads();
  wait_for_predecessor();
  allow_successor();
  const int first = static_cast<int>(blockIdx.y) * kRowsPerBlock;
  scores.run(first, min(first + kRowsPerBlock, arguments.scores.rows.num_rows));
}

template <int kHeads>
cudaError_t launch_shape(const PromptArguments& arguments, const LaunchOptions& options) {
  using S = Shape<kHeads>;
  const RowMap& rows = arguments.scores.rows;
  const cudaError_t status = launch_clusters(
      lay_out_kernel<kHeads>, dim3(static_cast<unsigned>(rows.num_rows)), 1, 512, 0, options, arguments);
  if (status != cudaSuccess) return status;
  const int keys = S::kBlockPages * kPageKeys;
  const dim3 grid(static_cast<unsigned>((rows.max_context + keys - 1) / keys),
                  static_cast<unsigned>((rows.num_rows + kRowsPerBlock - 1) / kRowsPerBlock));
  return launch_clusters(prompt_scores_kernel<kHeads>, grid, 1, S::kThreads, S::kSharedBytes, options,
                         arguments);
}

}  // namespace

size_t prompt_scratch_bytes(int num_heads, int rows) {
  return static_cast<size_t>(rows) * static_cast<size_t>(num_heads) * (kKeyBytes + sizeof(float));
}

cudaError_t launch_prompt_scores(const ScoreArguments& scores, int num_heads, void* scratch, float* out,
                                 int64_t out_stride, const LaunchOptions& options) {
  const PromptArguments arguments{scores, static_cast<uint8_t*>(scratch), out, out_stride};
  return num_heads == 64 ? launch_shape<64>(arguments, options) : launch_shape<32>(arguments, options);
}

}  // namespace fulgur::cuda
