// A prompt's keys and head weights from its projection kw: LayerNorm, rope, Hadamard, rounding, the page.
// Half a warp has a token, since instructions are what takes the time.
//
// Cost of 8192 tokens, V3.2: 6.3 MB read (from L2, where the projection left them), 3.2 MB written.

#include "kernels/cuda/key_finish.cuh"
#include "kernels/cuda/launch.h"

namespace fulgur::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kLanes = 16;  // of a token
constexpr int kTokens = kThreads / kLanes;

__global__ void __launch_bounds__(kThreads, 2) keys_kernel(ProjectedRows projected, KeyArguments keys) {
  __shared__ KeyNorm norm;
  __shared__ KeyPlace places[kTokens];
  wait_for_predecessor();
  allow_successor();
  const auto thread = static_cast<int>(threadIdx.x);
  const int lane = thread % kLanes;
  const int of_block = thread / kLanes;
  const int first = static_cast<int>(blockIdx.x) * kTokens;
  const int token =
      min(first + of_block, projected.num_tokens - 1);  // the last one may be written more than once
  const float* kw = projected.kw + token * projected.stride;
  const int position = keys.rows.position[token];
  const int sequence = keys.rows.sequence[token];
  norm.load<kThreads>(keys, thread);
  places[of_block].load<kLanes>(keys, position, sequence, lane);
  float* head_weights = keys.head_weights + token * keys.head_weight_stride;
  for (int h = lane; h < projected.num_heads; h += kLanes)
    head_weights[h] = kw[kIndexDim + h] * keys.weight_scale;
  __syncthreads();
  finish_key<kLanes>(kw, norm, places[of_block], keys, lane);
}

}  // namespace

cudaError_t launch_keys(const ProjectedRows& projected, const KeyArguments& keys, cudaStream_t stream,
                        bool pdl) {
  const auto blocks = static_cast<unsigned>((projected.num_tokens + kTokens - 1) / kTokens);
  return launch_kernel(keys_kernel, {.blocks = dim3(blocks), .threads = kThreads, .pdl = pdl}, stream,
                       projected, keys);
}

}  // namespace fulgur::cuda
