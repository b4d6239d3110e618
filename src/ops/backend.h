#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace fulgur {

class ThreadTeam;
struct Context;
struct Embed;
struct MtpInput;
struct RmsNorm;
struct AddRmsNorm;
struct Linear;
struct LmHead;
struct AttentionPrepare;
struct MlaPrepare;
struct IndexerPrepare;
struct IndexerSelect;
struct IndexerScores;
struct SparseMla;
struct DenseMla;
struct MlaOutput;
struct Ffn;
struct Moe;
struct Sample;
struct IndexerShape;

/// What a back end must do: a line an op (the op's header is its contract) and its memory. run() is the way
/// in; nothing else calls through the table.
struct Backend {
  std::string_view name;  // "cpu avx2"

  bool fp8_keys = false;      // whether index keys may be e4m3 (ops/paged_cache.h)
  bool mixed_caches = false;  // whether latents may be e4m3, and entries of another dtype than the operands
  bool later_start = false;   // whether attention may begin behind position 0 (TokenBatch::first_position)

  size_t stack_bytes = 0;  // how deep its kernels go on a thread's stack, whatever the model's sizes

  void* (*allocate)(size_t bytes);  // 64-byte aligned; throws std::bad_alloc, on a GPU `device`
  void (*release)(void* data);
  /// Writes zeros to what was just allocated, on all threads, so that the system gives the memory now. Null:
  /// allocate() has it.
  void (*settle)(ThreadTeam&, void* data, size_t bytes) = nullptr;
  void (*upload)(void* to, const void* from_host, size_t bytes);
  void (*download)(void* to_host, const void* from, size_t bytes);

  /// The least Context::index_scratch_bytes that IndexerSelect can do with on so many threads, for contexts
  /// of at most max_context (where that matters).
  int64_t (*least_index_scratch)(const IndexerShape&, int64_t topk, int64_t max_context,
                                 int threads) = nullptr;

  // Null where a back end has no kernel for the op (yet): run() then throws.
  void (*embed)(Context&, const Embed&);
  void (*mtp_input)(Context&, const MtpInput&);
  void (*rms_norm)(Context&, const RmsNorm&);
  void (*add_rms_norm)(Context&, const AddRmsNorm&);
  void (*linear)(Context&, const Linear&);
  void (*lm_head)(Context&, const LmHead&);
  void (*attention_prepare)(Context&, const AttentionPrepare&);  // null: mla_prepare, then indexer_prepare
  void (*mla_prepare)(Context&, const MlaPrepare&);
  void (*indexer_prepare)(Context&, const IndexerPrepare&);
  void (*indexer_select)(Context&, const IndexerSelect&);
  void (*indexer_scores)(Context&, const IndexerScores&);
  void (*sparse_mla)(Context&, const SparseMla&);
  void (*dense_mla)(Context&, const DenseMla&);
  void (*mla_output)(Context&, const MlaOutput&);
  void (*ffn)(Context&, const Ffn&);
  void (*moe)(Context&, const Moe&);
  void (*sample)(Context&, const Sample&);
};

}  // namespace fulgur
