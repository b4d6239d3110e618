#include "unit/ops/op_table.h"

#include <algorithm>
#include <cctype>

namespace fulgur::test {

const std::vector<Dims>& all_dims() {
  static const std::vector<Dims> kDims = {
      {.name = "v32",
       .hidden = 176,
       .vocab = 192,
       .heads = 3,
       .q_lora = 28,
       .kv_lora = 32,
       .nope = 16,
       .rope = 64,
       .value = 20,
       .rope_interleave = true,
       .index_heads = 4,
       .index_dim = 128,
       .topk = 24,
       .index_interleave = false,
       .experts = 8,
       .experts_per_token = 3,
       .groups = 4,
       .groups_kept = 2,
       .expert_width = 16,
       .shared_width = 16,
       .dense_width = 64,
       .batch = {{0, 9}, {63, 3}, {130, 5}}},
      {.name = "glm",
       .hidden = 144,
       .vocab = 224,
       .heads = 3,
       .q_lora = 36,
       .kv_lora = 32,
       .nope = 24,
       .rope = 16,
       .value = 28,
       .rope_interleave = true,
       .index_heads = 5,
       .index_dim = 64,
       .topk = 16,
       .index_interleave = true,
       .experts = 5,
       .experts_per_token = 2,
       .groups = 1,
       .groups_kept = 1,
       .expert_width = 16,
       .shared_width = 16,
       .dense_width = 64,
       .batch = {{17, 1}, {0, 70}, {199, 1}}},
      {.name = "v3",
       .hidden = 160,
       .vocab = 128,
       .heads = 4,
       .q_lora = 0,
       .kv_lora = 40,
       .nope = 16,
       .rope = 16,
       .value = 20,
       .rope_interleave = true,
       .experts = 6,
       .experts_per_token = 3,
       .groups = 3,
       .groups_kept = 2,
       .expert_width = 16,
       .shared_width = 32,
       .dense_width = 64,
       .batch = {{64, 2}, {5, 11}, {127, 2}}},
      {.name = "mini",
       .hidden = 256,
       .vocab = 1280,
       .heads = 4,
       .q_lora = 128,
       .kv_lora = 128,
       .nope = 32,
       .rope = 32,
       .value = 32,
       .rope_interleave = true,
       .index_heads = 4,
       .index_dim = 64,
       .topk = 128,
       .index_interleave = false,
       .experts = 8,
       .experts_per_token = 2,
       .groups = 4,
       .groups_kept = 2,
       .expert_width = 64,
       .shared_width = 64,
       .dense_width = 512,
       .batch = {{300, 4}, {0, 20}, {120, 10}, {127, 1}}},
      {.name = "slice",
       .hidden = 1024,
       .vocab = 640,
       .heads = 2,
       .q_lora = 1536,
       .kv_lora = 512,
       .nope = 128,
       .rope = 64,
       .value = 128,
       .rope_interleave = true,
       .index_heads = 8,
       .index_dim = 128,
       .topk = 64,
       .index_interleave = false,
       .experts = 32,
       .experts_per_token = 8,
       .groups = 8,
       .groups_kept = 4,
       .expert_width = 128,
       .shared_width = 128,
       .dense_width = 576,
       .batch = {{180, 2}, {62, 3}}},
      {.name = "odd",
       .hidden = 37,
       .vocab = 41,
       .heads = 3,
       .q_lora = 19,
       .kv_lora = 21,
       .nope = 7,
       .rope = 6,
       .value = 5,
       .rope_interleave = false,
       .index_heads = 3,
       .index_dim = 11,
       .topk = 5,
       .index_interleave = true,
       .experts = 9,
       .experts_per_token = 4,
       .groups = 3,
       .groups_kept = 2,
       .expert_width = 13,
       .shared_width = 7,
       .dense_width = 29,
       .batch = {{0, 1}, {3, 1}, {4, 1}, {5, 1}, {62, 4}, {0, 17}}},
  };
  return kDims;
}

std::string short_name(const Tested& tested) {
  std::string text(tested.backend->name);
  if (text.starts_with("cpu ")) text.erase(0, 4);
  std::ranges::replace(text, ' ', '_');
  return text;
}

std::string short_name(DType dtype) {
  std::string text(name(dtype));
  std::ranges::transform(text, text.begin(),
                         [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

std::string short_name(WeightForm form) { return std::string(name(form)); }

namespace {

std::vector<TableRow> rows_of(const Backend& backend) {
  struct Part {
    bool has_kernel;
    std::vector<TableRow> (*rows)();
  };
  const Part parts[] = {
      {backend.embed != nullptr, embed_rows},
      {backend.mtp_input != nullptr, mtp_input_rows},
      {backend.add_rms_norm != nullptr, norm_rows},
      {backend.linear != nullptr, linear_rows},
      {backend.mla_prepare != nullptr, mla_prepare_rows},
      {backend.indexer_prepare != nullptr, indexer_prepare_rows},
      {backend.mla_prepare != nullptr && backend.indexer_prepare != nullptr, attention_prepare_rows},
      {backend.indexer_select != nullptr, indexer_select_rows},
      {backend.sparse_mla != nullptr, mla_attention_rows},
      {backend.mla_output != nullptr, mla_output_rows},
      {backend.ffn != nullptr, ffn_rows},
      {backend.moe != nullptr, moe_rows},
      {backend.sample != nullptr, sample_rows},
  };
  std::vector<TableRow> all;
  for (const Part& part : parts) {
    if (!part.has_kernel) continue;
    for (TableRow& row : part.rows()) {
      if ((!row.fp8_keys || backend.fp8_keys) && (!row.mixed_caches || backend.mixed_caches) &&
          (!row.later_start || backend.later_start) && (!row.tuned || is_gpu(backend))) {
        all.push_back(std::move(row));
      }
    }
  }
  return all;
}

}  // namespace

std::vector<std::tuple<Tested, TableRow>> all_lines() {
  std::vector<std::tuple<Tested, TableRow>> all;
  for (const Tested& tested : tested_backends()) {
    for (TableRow& row : rows_of(*tested.backend)) all.emplace_back(tested, std::move(row));
  }
  return all;
}

}  // namespace fulgur::test
