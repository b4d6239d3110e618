#include "ops/profile.h"

namespace fulgur {

std::string_view name(OpKind kind) {
  static constexpr std::array<std::string_view, kNumOpKinds> kNames = {"embed",
                                                                       "mtp_input",
                                                                       "rms_norm",
                                                                       "add_rms_norm",
                                                                       "linear",
                                                                       "lm_head",
                                                                       "attention_prepare",
                                                                       "mla_prepare",
                                                                       "indexer_prepare",
                                                                       "indexer_select",
                                                                       "indexer_scores",
                                                                       "sparse_mla",
                                                                       "dense_mla",
                                                                       "mla_output",
                                                                       "ffn",
                                                                       "moe",
                                                                       "sample"};
  return kNames[static_cast<size_t>(kind)];
}

}  // namespace fulgur
