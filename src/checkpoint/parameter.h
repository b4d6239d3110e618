#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/weight.h"

namespace fulgur {

/// A dimension that a config promises, with the field (or expression of fields) that promises it: a
/// checkpoint that disagrees is a shape_mismatch that names it.
struct Dim {
  int64_t size = 0;
  std::string field;  // "hidden_size", "index_head_dim + index_n_heads"
};

/// One tensor of a checkpoint that a parameter is made from, by its whole name.
struct Part {
  std::string tensor;      // "model.layers.0.self_attn.indexer.wk.weight"
  std::vector<Dim> shape;  // as stored
};

/// What is done to the source on its way into memory.
enum class Arrangement {
  kRows,          // the parts' rows, one part after the other
  kUkTransposed,  // kv_b_proj [h*(dn+dv), r] -> UK transposed per head [h*r, dn]
  kUv,            // kv_b_proj [h*(dn+dv), r] -> UV per head [h*dv, r]
};

/// One parameter of the model, declared as data: what `inspect` prints, the loader fills and the layer binds.
struct Parameter {
  std::string name;  // "model.layers.0.self_attn.indexer.wk_weights_proj"
  int64_t rows = 0;  // as held
  int64_t cols = 0;  // vectors are [1, n]
  /// The spellings a checkpoint may use, each a list of parts. Exactly one of them may be present.
  std::vector<std::vector<Part>> spellings;
  /// The forms it may be held in. Stored in one of them, it is held as it is stored (mapped, where no step
  /// is needed). Otherwise, or where its parts differ: in the first of them that holds every part exactly; if
  /// none does, rounded to the first. Never in f16 unless it is stored so.
  std::vector<WeightForm> held_as;
  bool quantizable =
      false;  // a projection that published checkpoints store as FP8 or FP4 (checkpoints.md, 3)
  /// Tensors that contradict this parameter when they stand beside it: q_proj for q_a_proj and the reverse.
  std::vector<std::string> rivals;
  Arrangement arrangement = Arrangement::kRows;
  int64_t num_heads = 0;  // for kUkTransposed and kUv
  int64_t nope = 0;       // dn
  int64_t value = 0;      // dv
};

/// Whether a tensor's whole name follows a pattern in the language of IgnoreRule::pattern.
bool matches_pattern(std::string_view name, std::string_view pattern);

/// Names that a checkpoint may hold and this model doesn't use, and why.
struct IgnoreRule {
  std::string name;  // "rotary tables": what `inspect` prints
  /// Whole dotted components: `*` stands for any one, `>=N` for a number of at least N, `**` for any number
  /// of components, none included ("**.rotary_emb.inv_freq", "model.layers.>=61.**").
  std::string pattern;
};

}  // namespace fulgur
