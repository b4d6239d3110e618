#pragma once

// The kernels that launch_query chooses from, by the number of tokens.

#include "kernels/cuda/indexer_prepare_tuned.h"

namespace fulgur::cuda {

constexpr int kDeepSeekRank = 1536;
constexpr int kGlmRank = 2048;

cudaError_t launch_few_queries(const QueryArguments& arguments, cudaStream_t stream, bool pdl);
cudaError_t launch_prompt_queries(const QueryArguments& arguments, cudaStream_t stream, bool pdl);
size_t prompt_query_scratch_bytes(int num_tokens, int q_rank);

}  // namespace fulgur::cuda
