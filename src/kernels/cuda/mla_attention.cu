// Absorbed attention over the selected or all positions (from first_position on), for any shape.
//
// A block has a head of a token and goes through its entries in blocks of 64: a warp makes the score of an
// entry, the block's maximum rescales sum and u (in shared memory, f32), p is rounded once to q's dtype
// before it multiplies the latents, each thread adds to its own components of u. The order of all sums is
// fixed by the positions alone.
//
// Cost: (2 r + dr) multiply-adds an entry and head; every head reads the entries for itself, from L2.

#include "kernels/cuda/element.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/rope.cuh"
#include "kernels/cuda/stream_launch.h"

namespace fulgur::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarpLanes;
constexpr int kBlockEntries = 64;

struct Args {
  Operand q;
  PagedLatents latents;
  TokenBatch batch;
  MlaShape shape;
  float scale;
  Operand u;
  Matrix<const int32_t> selected;  // none: all positions
};

template <typename T>
__global__ void __launch_bounds__(kThreads) attention_kernel(Args args) {
  extern __shared__ float shared[];
  __shared__ float p[kBlockEntries];
  __shared__ const T* entries[kBlockEntries];
  wait_for_predecessor();
  allow_successor();
  const MlaShape& shape = args.shape;
  const int width = shape.kv_lora + shape.rope;
  float* q = shared;     // [r + dr]
  float* u = q + width;  // [r]
  const int64_t t = blockIdx.x / shape.num_heads;
  const int64_t head = blockIdx.x % shape.num_heads;
  const auto thread = static_cast<int>(threadIdx.x);
  const int warp = thread / kWarpLanes;
  const int lane = thread % kWarpLanes;
  for (int i = thread; i < width; i += kThreads) q[i] = load(args.q.row<const T>(t) + head * width + i);
  for (int i = thread; i < shape.kv_lora; i += kThreads) u[i] = 0;

  const bool sparse = args.selected.data != nullptr;
  const int32_t start = args.batch.first_position;
  const int64_t candidates = sparse ? args.selected.cols : args.batch.position[t] + int64_t{1} - start;
  float maximum = -INFINITY;
  float sum = 0;
  for (int64_t begin = 0; begin < candidates; begin += kBlockEntries) {
    __syncthreads();  // the last block's readers of p and entries
    bool present = false;
    if (thread < kBlockEntries && begin + thread < candidates) {
      const auto position =
          sparse ? args.selected.row(t)[begin + thread] : start + static_cast<int32_t>(begin + thread);
      present = position >= 0;
      if (present)
        entries[thread] =
            args.latents.entry<const T>(page_of(args.batch, t, position), position % kPageTokens);
    }
    const int count = __syncthreads_count(static_cast<int>(present));  // the rest is -1
    if (count == 0) break;

    for (int s = warp; s < count; s += kWarps) {
      float dot = 0;
      for (int i = lane; i < width; i += kWarpLanes) dot = fmaf(q[i], load(entries[s] + i), dot);
      dot = warp_sum(dot);
      if (lane == 0) p[s] = dot * args.scale;
    }
    __syncthreads();
    const float z = thread < count ? p[thread] : -INFINITY;
    const float new_maximum = fmaxf(maximum, block_max(z));
    const float rescale = begin == 0 ? 0.0F : expf(maximum - new_maximum);
    const float weight = thread < count ? expf(z - new_maximum) : 0.0F;  // NaN stays one
    sum = sum * rescale + block_sum(weight);
    maximum = new_maximum;
    if (thread < count) p[thread] = rounded<T>(weight);
    __syncthreads();
    for (int i = thread; i < shape.kv_lora; i += kThreads) {
      float total = begin == 0 ? 0.0F : u[i] * rescale;
      for (int s = 0; s < count; ++s) total = fmaf(p[s], load(entries[s] + i), total);
      u[i] = total;
    }
  }

  T* out = args.u.row<T>(t) + head * shape.kv_lora;
  const float factor = 1.0F / sum;
  for (int i = thread; i < shape.kv_lora; i += kThreads) store(out + i, u[i] * factor);
  if (thread == 0 && isnan(sum)) atomicOr(args.batch.fault + args.batch.sequence[t], kFaultNan);
}

void attend(Context& context, const char* name, const Args& args) {
  const auto blocks = static_cast<unsigned>(args.batch.num_tokens * args.shape.num_heads);
  const auto floats = static_cast<size_t>(2 * args.shape.kv_lora + args.shape.rope);
  with_operand(args.q.dtype, [&](auto element) {
    launch(*context.stream, name,
           {.blocks = dim3(blocks), .threads = kThreads, .shared_bytes = floats * sizeof(float)},
           attention_kernel<decltype(element)>, args);
  });
}

}  // namespace

void sparse_mla(Context& context, const SparseMla& op) {
  attend(context, "the kernel sparse_mla",
         {op.q, op.latents, op.batch, op.shape, op.scale, op.u, op.selected});
}

void dense_mla(Context& context, const DenseMla& op) {
  attend(context, "the kernel dense_mla", {op.q, op.latents, op.batch, op.shape, op.scale, op.u, {}});
}

}  // namespace fulgur::cuda
