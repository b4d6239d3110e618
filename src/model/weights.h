#pragma once

#include <vector>

#include "base/matrix.h"
#include "base/weight.h"
#include "checkpoint/parameter.h"
#include "model/config.h"
#include "ops/ffn.h"
#include "ops/indexer_prepare.h"
#include "ops/mla_prepare.h"
#include "ops/moe.h"

namespace fulgur {

enum class Precision {
  kNative,  // weights as stored, operands and caches bf16
  kFull,    // operands, caches, the fused projection and the index keys f32
};
/// What a step's operands and caches are held in.
constexpr DType operand_dtype(Precision precision) {
  return precision == Precision::kFull ? DType::kF32 : DType::kBf16;
}

/// The weights of one decoder layer, in the slots its forward pass reads.
struct LayerWeights {
  Weight input_norm;           // [1, hidden]
  Weight post_attention_norm;  // [1, hidden]
  MlaWeights mla;
  IndexerWeights indexer;  // absent in layers without an indexer of their own
  FfnWeights ffn;          // dense layers
  Weight router;           // MoE layers, like all below
  Weight correction_bias;
  std::vector<FfnWeights> experts;
  FfnWeights shared;
};

/// The MTP layer's own parts, around its decoder layer (docs/spec/model.md, section 9).
struct MtpWeights {
  Weight enorm;    // [1, hidden]
  Weight hnorm;    // [1, hidden]
  Weight eh_proj;  // [hidden, 2 * hidden]
  Weight norm;     // shared_head.norm [1, hidden]
  Weight embed;    // the layer's copy, or the main table
  Weight head;     // the layer's copy, or the main head
  LayerWeights layer;
};

struct ModelWeights {
  Weight embed;  // [vocab, hidden]
  Weight norm;   // [1, hidden]
  Weight head;   // [vocab, hidden]; the embedding when tied
  std::vector<LayerWeights> layers;
  MtpWeights mtp;

  /// Whether the MTP layer was loaded.
  [[nodiscard]] bool has_mtp() const { return mtp.eh_proj.present(); }
};

/// A parameter and where its weight goes.
struct Slot {
  Parameter parameter;
  Weight* weight = nullptr;
};

/// Every parameter of the main model with the slot it fills: the one list that plans, loads and binds. Sizes
/// `weights` to the config; the slots point into it.
std::vector<Slot> main_slots(const Config& config, Precision precision, ModelWeights& weights);
/// The same for the MTP layer, whose tensors are named model.layers.L. Its embedding and head are optional
/// copies: say whether the checkpoint holds them.
std::vector<Slot> mtp_slots(const Config& config, Precision precision, ModelWeights& weights, bool has_embed,
                            bool has_head);

/// After binding: what has no tensor of its own becomes a view of what it is a copy of. A tied head is the
/// embedding, the MTP layer's embedding and head are the main ones.
void share_weights(ModelWeights& weights);

/// What a checkpoint of this config may hold beside its parameters (docs/spec/checkpoints.md, section 2).
/// The tensors of layers >= L are ignored, but `with_mtp` not those of layer L.
std::vector<IgnoreRule> ignore_rules(const Config& config, bool with_mtp);

}  // namespace fulgur
