#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "ops/indexer_prepare.h"
#include "ops/mla_prepare.h"
#include "ops/moe.h"
#include "reference/ffn.h"
#include "reference/moe.h"
#include "reference/rope.h"
#include "reference/table.h"

namespace fulgur::reference {

/// docs/spec/model.md, sections 1-9, for one sequence and without a cache: the whole model in double, in the
/// expanded form of the attention, which shares nothing with the absorbed form of the ops but the norms and
/// products.
struct ModelConfig {
  double eps = 1e-6;  // rms_norm_eps
  RopeConfig rope;
  MlaShape mla{};
  IndexerShape indexer{};
  int index_topk = 0;  // 0: no indexer, every layer is dense
  MoeShape moe{};
};

struct IndexerTables {
  Table wk;            // [dI, d]
  Table weights_proj;  // [nI, d]
  Table k_norm_gain;   // [1, dI]
  Table k_norm_bias;   // [1, dI]
  Table wq_b;          // [nI*dI, q]
};

struct LayerTables {
  Table input_norm;                      // [1, d]
  Table q_a;                             // [q, d]; no rows where q_lora_rank is null
  Table q_a_norm;                        // [1, q]
  Table q_b;                             // [h*(dn+dr), q or d]
  Table kv_a;                            // [r+dr, d]
  Table kv_a_norm;                       // [1, r]
  Table kv_b;                            // [h*(dn+dv), r]
  Table o;                               // [d, h*dv]
  std::optional<IndexerTables> indexer;  // absent: the selection of the closest layer before that has one
  Table post_attention_norm;             // [1, d]
  std::optional<FfnTables> dense;        // either this
  std::optional<MoeTables> moe;          // or this
};

/// The MTP module (section 9).
struct MtpTables {
  Table embedding;  // [V, d]
  Table enorm;      // [1, d]
  Table hnorm;      // [1, d]
  Table eh_proj;    // [d, 2d]
  LayerTables layer;
  Table head_norm;  // [1, d]
  Table head;       // [V, d]
};

struct ModelTables {
  Table embedding;  // [V, d]
  std::vector<LayerTables> layers;
  Table norm;  // [1, d]
  Table head;  // [V, d]
  std::optional<MtpTables> mtp;
};

/// What a forward pass of one sequence of T tokens leaves behind.
struct Trace {
  std::vector<Table> hidden;  // [0] the embedding, [i] the residual stream after layer i-1
  Table final_hidden;         // F, after the final norm [T, d]
  Table logits;               // [T, V]
  std::vector<std::optional<Table>> index_scores;  // per layer with an indexer: [T, T], 0 where s > t
  std::vector<std::vector<std::vector<int32_t>>> selected;  // per layer and token: A(t), ascending
  std::vector<std::vector<Routing>> routing;                // per layer and token; empty for dense layers
};

struct MtpTrace {
  Table hidden;  // x1 [T-1, d]: row i for the pair (F_i, token i+1)
  Table logits;  // [T-1, V]
};

class Model {
 public:
  Model(ModelConfig config, ModelTables tables);

  [[nodiscard]] const ModelConfig& config() const { return config_; }
  [[nodiscard]] const ModelTables& tables() const { return tables_; }

  [[nodiscard]] Trace forward(std::span<const int32_t> tokens) const;
  /// The MTP module over a sequence and the F of its main pass.
  [[nodiscard]] MtpTrace forward_mtp(std::span<const int32_t> tokens, const Table& final_hidden) const;

 private:
  using Selection = std::vector<std::vector<int32_t>>;
  struct Queries {
    Table latent;     // qr
    Table projected;  // Q [T, h*(dn+dr)], rotated
  };
  [[nodiscard]] Table decoder_layer(const LayerTables& layer, const Table& hidden, Trace& trace) const;
  [[nodiscard]] Queries queries(const LayerTables& layer, const Table& x, const RopeAngles& angles) const;
  [[nodiscard]] Table index_scores(const IndexerTables& indexer, const Table& x, const Table& q_latent,
                                   const RopeAngles& angles) const;
  [[nodiscard]] Table attention(const LayerTables& layer, const Table& x, const Table& q,
                                const Selection& selected, const RopeAngles& angles) const;

  ModelConfig config_;
  ModelTables tables_;
};

}  // namespace fulgur::reference
