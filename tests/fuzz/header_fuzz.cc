// A safetensors file, from its first byte to weights in memory: header, catalog, plan, values.
//
// An input begins with four bytes: flags, and how many bytes of data there are. Then comes the header's text,
// whose length is put before it and whose data behind it, so that a header of a few kilobytes is a whole
// checkpoint; or, by a flag, the file as it is.

#include <algorithm>
#include <cstring>

#include "checkpoint/catalog.h"
#include "checkpoint/verify.h"
#include "memory_file.h"
#include "model/inspection.h"
#include "model/load.h"
#include "refusal.h"

namespace fulgur::fuzz {
namespace {

// The miniature that the goldens store in five kinds, one layer of it (make_corpus.py cuts the seeds to it).
constexpr std::string_view kConfig = R"({
  "model_type": "deepseek_v32", "vocab_size": 192, "hidden_size": 176, "intermediate_size": 64,
  "moe_intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 3, "n_routed_experts": 2,
  "num_experts_per_tok": 1, "first_k_dense_replace": 0, "num_nextn_predict_layers": 1, "q_lora_rank": 28,
  "kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 64, "v_head_dim": 20, "index_n_heads": 4,
  "index_head_dim": 128, "index_topk": 24, "rope_theta": 10000, "max_position_embeddings": 4096})";

struct Flags {
  bool raw = false;
  bool with_mtp = false;
  bool full_precision = false;
  Fp8Scheme fp8;
  uint64_t data_bytes = 0;
};

constexpr size_t kFlagBytes = 4;
constexpr char kData = '\x3c';  // repeated, a finite positive number in every type

Flags read_flags(const uint8_t* data) {
  uint32_t word = 0;
  std::memcpy(&word, data, kFlagBytes);
  const auto bit = [&](int number) { return (word >> number & 1) != 0; };
  return {.raw = bit(31),
          .with_mtp = bit(30),
          .full_precision = bit(29),
          .fp8 = {.block_scales = !bit(28),
                  .row_scales = bit(27),
                  .tensor_scales = bit(26),
                  .u8_scales = bit(25)},
          .data_bytes = word & ((1U << 20) - 1)};
}

void check_entries(const Catalog& catalog) {
  for (const CatalogEntry& entry : catalog.entries) {
    const uint64_t size = catalog.files[static_cast<size_t>(entry.file)]->bytes().size();
    check(entry.offset <= size && entry.bytes <= size - entry.offset, "A tensor outside its file",
          entry.name);
    check(catalog.find(entry.name) == &entry, "A tensor that isn't found by its name", entry.name);
  }
}

void load(const Flags& flags, const Catalog& catalog) {
  static const Config kModel = parse_config(kConfig, "config.json");
  Config config = kModel;
  config.quantization = Quantization{.method = "fp8", .fp8 = flags.fp8};
  const Precision precision = flags.full_precision ? Precision::kFull : Precision::kNative;
  const ModelPlan plan = plan_model(config, precision, catalog, flags.with_mtp);
  check_problems(plan.load.problems);
  for (const std::string& notice : plan.notices) check_printable(notice);
  if (!plan.load.problems.empty()) return;
  const WeightBytes foretold = weight_bytes(plan, catalog, flags.with_mtp);
  const LoadedWeights loaded = execute(plan.load, plan.parameters, catalog, /*num_threads=*/1);
  check(loaded.mapped_bytes + loaded.copied_bytes <= 2 * (foretold.mapped + foretold.copied),
        "More memory than was foretold");
  check_problems(verify(plan.load, catalog, /*num_threads=*/1));
  (void)stored_bytes(plan.load, catalog);
}

void run(const uint8_t* data, size_t size) {
  if (size < kFlagBytes) return;
  const Flags flags = read_flags(data);
  const std::string_view text(reinterpret_cast<const char*>(data) + kFlagBytes, size - kFlagBytes);
  std::string bytes;
  if (!flags.raw) {
    const uint64_t length = text.size();
    bytes.assign(reinterpret_cast<const char*>(&length), sizeof(length));
  }
  bytes += text;
  if (!flags.raw) bytes.append(flags.data_bytes, kData);
  static const MemoryFile file;
  file.write(bytes);
  try_out([&] {
    const Catalog catalog = read_safetensors(file.path());
    check_entries(catalog);
    load(flags, catalog);
  });
}

}  // namespace
}  // namespace fulgur::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fulgur::fuzz::run(data, size);
  return 0;
}
