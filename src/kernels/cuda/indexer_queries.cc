#include "kernels/cuda/indexer_queries.h"

#include "kernels/cuda/indexer_tiles.h"

namespace fulgur::cuda {

bool query_takes(const QueryArguments& args) {
  constexpr int64_t kAlignment = 16;
  const auto aligned = [](const void* pointer) {
    return reinterpret_cast<uintptr_t>(pointer) % kAlignment == 0;
  };
  return (args.q_rank == kDeepSeekRank || args.q_rank == kGlmRank) && args.num_tokens >= 1 &&
         args.num_heads >= 2 && args.num_heads % 2 == 0 && aligned(args.weights) && aligned(args.q_latent) &&
         args.q_latent_stride % 8 == 0 && aligned(args.q) && args.q_stride % 16 == 0 &&
         aligned(args.rows.cos) && aligned(args.rows.sin) && args.rows.rope_stride % 4 == 0;
}

size_t query_scratch_bytes(int num_tokens, int q_rank) {
  if (num_tokens <= kFewQueryTokens) return 0;
  if (num_tokens > kMostOwnTokens) return prompt_query_scratch_bytes(num_tokens, q_rank);
  const auto rank = static_cast<size_t>(q_rank);
  const size_t padded = static_cast<size_t>(num_tokens) + kMostBatchTile;
  return padded * (2 * rank + rank / kQueryGroup * sizeof(float));
}

cudaError_t launch_query(const QueryArguments& args, cudaStream_t stream, bool pdl) {
  if (!query_takes(args)) return cudaErrorInvalidValue;
  if (args.num_tokens <= kFewQueryTokens) return launch_few_queries(args, stream, pdl);
  if (args.num_tokens > kMostOwnTokens) return launch_prompt_queries(args, stream, pdl);
  const cudaError_t status = launch_latents(latents_of(args), stream, pdl);
  return status == cudaSuccess ? launch_laid_out_query(args, stream, pdl) : status;
}

}  // namespace fulgur::cuda
