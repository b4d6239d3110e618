// Scores of a prompt's many rows: each block keeps the keys of a few pages in registers and streams query
// rows past them.
//
// A block takes 384 positions (bf16: 256) and 64 rows. Its three warpgroups hold two pages each (four hold
// one) as the A operand; queries come in batches through two buffers in shared memory, where they are laid
// out for the matrix unit while the batch before is multiplied. A warpgroup always has the products of one
// page under way while it weighs the heads of the other. Blocks wholly behind the causal diagonal have
// nothing to do.
//
// Cost: 64 * heads * 128 multiply-adds a page and row (index_scores.cuh), 4 bytes written a score; keys are
// read once for 64 rows, queries once for 384 keys, both from L2.

#include "kernels/cuda/index_scores.cuh"
#include "kernels/cuda/indexer_launch.h"

namespace fulgur::cuda {
namespace {

constexpr int kRowsPerBlock = 64;

template <IndexForm kForm, int kHeads>
struct Shape {
  using Form = KeyForm<kForm>;
  static constexpr int kPages = kForm == IndexForm::kE4m3 ? 2 : 1;   // of a warpgroup
  static constexpr int kGroups = kForm == IndexForm::kE4m3 ? 3 : 4;  // warpgroups, by their registers
  static constexpr int kThreads = kGroups * 128;
  static constexpr int kBlockPages = kPages * kGroups;
  static constexpr int kQueryBytes = kHeads * Form::kRowBytes;
  static constexpr int kBatch = 4;  // rows between two barriers
  static constexpr int kQueryOffset = 0;
  static constexpr int kPageOffset = kQueryOffset + 2 * kBatch * kQueryBytes;
  static constexpr int kWeightOffset = kPageOffset + kBlockPages * Form::kPageBytes;
  static constexpr int kBarrierOffset = kWeightOffset + 2 * kBatch * kHeads * 4;
  static constexpr int kSharedBytes = kBarrierOffset + kBlockPages * 8 + 1024;
};

struct PromptArguments {
  ScoreArguments scores;
  float* out;
  int64_t out_stride;
};

template <IndexForm kForm, int kHeads>
class PromptScores {
  using S = Shape<kForm, kHeads>;
  using Form = KeyForm<kForm>;

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
      fence_mbarrier_init();
    }
  }

  __device__ void run(int first, int end) {
    const RowMap& rows = arguments_.scores.rows;
    while (first < end) {
      int count = 1;
      while (first + count < end && rows.sequence[first + count] == rows.sequence[first]) ++count;
      // Positions of a sequence's rows are consecutive.
      const int skipped = max(first_page_ * kPageKeys - rows.position[first], 0);
      if (skipped < count) run_sequence(first + skipped, count - skipped);
      first += count;
    }
  }

 private:
  __device__ static int group() { return static_cast<int>(threadIdx.x / 128); }

  __device__ void run_sequence(int first, int count) {
    const RowMap& rows = arguments_.scores.rows;
    const int first_position = rows.position[first];
    const int last_position = first_position + count - 1;
    const int32_t* table = rows.pages + static_cast<int64_t>(rows.sequence[first]) * rows.page_stride;
    __syncthreads();
    const int mine = static_cast<int>(threadIdx.x);
    if (mine < S::kBlockPages && (first_page_ + mine) * kPageKeys <= last_position) {
      mbarrier_expect(barriers_ + mine, Form::kPageBytes);
      bulk_copy(pages_ + mine * Form::kPageBytes,
                arguments_.scores.keys + static_cast<int64_t>(table[first_page_ + mine]) * Form::kPageBytes,
                Form::kPageBytes, barriers_ + mine);
    }
    fetch(0, first, count);
    KeyFragment<kForm> keys[S::kPages] = {};
#pragma unroll
    for (int p = 0; p < S::kPages; ++p) {
      const int page = group() * S::kPages + p;
      if ((first_page_ + page) * kPageKeys <= last_position) {
        mbarrier_wait(barriers_ + page, phases_ >> p & 1U);
        phases_ ^= 1U << p;
        load_keys<kForm>(pages_ + page * Form::kPageBytes, keys[p]);
      }
    }
    deliver();
    int buffer = 0;
    for (int begin = 0; begin < count; begin += S::kBatch) {
      const bool more = begin + S::kBatch < count;
      if (more) fetch(buffer ^ 1, first + begin + S::kBatch, count - begin - S::kBatch);
      score_batch(keys, buffer, first + begin, first_position + begin, min(count - begin, S::kBatch));
      buffer ^= 1;
      if (more) deliver();
    }
  }

  /// Starts to lay out the next batch's queries, of which `count` remain (its last row fills the rest).
  __device__ void fetch(int buffer, int first, int count) {
    const ScoreArguments& scores = arguments_.scores;
    constexpr int kRowWords = S::kQueryBytes / 4;
    uint8_t* to = queries_ + buffer * S::kBatch * S::kQueryBytes;
#pragma unroll 4
    for (int i = static_cast<int>(threadIdx.x); i < S::kBatch * kRowWords; i += S::kThreads) {
      const int row = i / kRowWords;
      const int word = i % kRowWords;
      const int head = word / (Form::kRowBytes / 4);
      const int chunk = word % (Form::kRowBytes / 4) / kWordsPerChunk;
      copy_word(to + row * S::kQueryBytes + query_word_offset(kHeads, head, chunk, word % kWordsPerChunk),
                static_cast<const uint8_t*>(scores.q) +
                    (first + min(row, count - 1)) * scores.q_stride_bytes + word * 4);
    }
    for (int i = static_cast<int>(threadIdx.x); i < S::kBatch * kHeads; i += S::kThreads) {
      const int row = first + min(i / kHeads, count - 1);
      copy_word(weights_ + buffer * S::kBatch * kHeads + i,
                scores.head_weights + row * scores.weight_stride + i % kHeads);
    }
  }
  /// Ends that, for all to use.
  __device__ static void deliver() {
    wait_for_copies();
    fence_async_proxy();
    __syncthreads();
  }

  /// No branch between products and what reads their sums: rows past `count` are multiplied, not written.
  __device__ void score_batch(const KeyFragment<kForm> (&keys)[S::kPages], int buffer, int first_row,
                              int first_position, int count) {
    const uint32_t query = shared_address(queries_) + buffer * S::kBatch * S::kQueryBytes;
    const float* weights = weights_ + buffer * S::kBatch * kHeads;
    float sums[S::kPages][kHeads / 2];
    begin_products<kForm, kHeads>(keys[0], query, sums[0]);
#pragma unroll
    for (int i = 0; i < S::kBatch; ++i) {
      const int last = i < count ? first_position + i : -1;
      if constexpr (S::kPages == 2) {
        begin_products<kForm, kHeads>(keys[1], query + i * S::kQueryBytes, sums[1]);
        wgmma_wait<1>();
        put(sums[0], weights + i * kHeads, 0, first_row + i, last);
        if (i + 1 < S::kBatch) {
          begin_products<kForm, kHeads>(keys[0], query + (i + 1) * S::kQueryBytes, sums[0]);
          wgmma_wait<1>();
        } else {
          wgmma_wait<0>();
        }
        put(sums[1], weights + i * kHeads, 1, first_row + i, last);
      } else {
        wgmma_wait<0>();
        put(sums[0], weights + i * kHeads, 0, first_row + i, last);
        if (i + 1 < S::kBatch) {
          begin_products<kForm, kHeads>(keys[0], query + (i + 1) * S::kQueryBytes, sums[0]);
        }
      }
    }
  }

  __device__ void put(float (&sums)[kHeads / 2], const float* weights, int p, int row, int last) const {
    const float2 both = weigh_heads<kHeads>(
        sums, weights, load_scales<kForm>(pages_ + (group() * S::kPages + p) * Form::kPageBytes));
    const int quad = static_cast<int>(threadIdx.x % 4);
    const int position = (first_page_ + group() * S::kPages + p) * kPageKeys + key_row() + 8 * quad;
    if (quad < 2 && position <= last) {
      arguments_.out[row * arguments_.out_stride + position] = quad == 0 ? both.x : both.y;
    }
  }

  const PromptArguments& arguments_;
  uint8_t* queries_;
  uint8_t* pages_;
  float* weights_;
  uint64_t* barriers_;
  const int first_page_;
  uint32_t phases_ = 0;  // a bit for each of the warpgroup's pages
};

template <IndexForm kForm, int kHeads>
__global__ void __launch_bounds__(Shape<kForm, kHeads>::kThreads, 1)
    prompt_scores_kernel(const __grid_constant__ PromptArguments arguments) {
  extern __shared__ uint8_t unaligned[];
  uint8_t* shared = unaligned + (1024 - shared_address(unaligned) % 1024) % 1024;
  PromptScores<kForm, kHeads> scores(arguments, shared);
  wait_for_predecessor();
  allow_successor();
  const int first = static_cast<int>(blockIdx.y) * kRowsPerBlock;
  scores.run(first, min(first + kRowsPerBlock, arguments.scores.rows.num_rows));
}

template <IndexForm kForm, int kHeads>
cudaError_t launch_shape(const PromptArguments& arguments, const LaunchOptions& options) {
  using S = Shape<kForm, kHeads>;
  const RowMap& rows = arguments.scores.rows;
  const int keys = S::kBlockPages * kPageKeys;
  const dim3 grid(static_cast<unsigned>((rows.max_context + keys - 1) / keys),
                  static_cast<unsigned>((rows.num_rows + kRowsPerBlock - 1) / kRowsPerBlock));
  return launch_clusters(prompt_scores_kernel<kForm, kHeads>, grid, 1, S::kThreads, S::kSharedBytes, options,
                         arguments);
}

}  // namespace

cudaError_t launch_prompt_scores(const ScoreArguments& scores, IndexForm form, int num_heads, float* out,
                                 int64_t out_stride, const LaunchOptions& options) {
  const PromptArguments arguments{scores, out, out_stride};
  if (form == IndexForm::kE4m3) {
    return num_heads == 64 ? launch_shape<IndexForm::kE4m3, 64>(arguments, options)
                           : launch_shape<IndexForm::kE4m3, 32>(arguments, options);
  }
  return num_heads == 64 ? launch_shape<IndexForm::kBf16, 64>(arguments, options)
                         : launch_shape<IndexForm::kBf16, 32>(arguments, options);
}

}  // namespace fulgur::cuda
