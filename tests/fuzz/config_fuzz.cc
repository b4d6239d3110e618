// config.json, and behind a NUL hf_quant_config.json, and behind another generation_config.json; then what is
// made of a config that passes: its parameters and its rotary tables.

#include "model/load.h"
#include "model/rope.h"
#include "refusal.h"
#include "support/checkpoint_files.h"

namespace fulgur::fuzz {
namespace {

constexpr int64_t kFewModules = 500;  // listing all that is missing takes long

void write_or_remove(const std::filesystem::path& path, std::string_view text) {
  if (text.empty()) {
    std::filesystem::remove(path);
  } else {
    write_bytes(path, text);
  }
}

void use(const Config& config) {
  check(config.softmax_scale() > 0, "A scale that is no scale");
  check(config.moe_layer.size() == static_cast<size_t>(config.num_hidden_layers),
        "A schedule of another length");
  check(!config.sparse() || config.full_indexer.size() >= config.moe_layer.size(), "An indexer of no layer");
  const auto frequencies = rope_frequencies(config.rope, config.qk_rope_head_dim);
  check(2 * frequencies.size() == static_cast<size_t>(config.qk_rope_head_dim),
        "Frequencies of another width");
  if (config.num_hidden_layers * config.n_routed_experts > kFewModules ||
      config.num_hidden_layers > kFewModules)
    return;
  const Catalog nothing{.source = "model.safetensors"};
  const ModelPlan plan = plan_model(config, Precision::kNative, nothing, /*with_mtp=*/true);
  check(!plan.load.problems.empty(), "A model of no tensors");
  check_problems(plan.load.problems);
}

void run(const uint8_t* data, size_t size) {
  static const TemporaryFolder folder;
  const std::vector<std::string_view> files = parts(data, size, 3);
  write_bytes(folder / "config.json", files[0]);
  write_or_remove(folder / "hf_quant_config.json", files[1]);
  write_or_remove(folder / "generation_config.json", files[2]);
  try_out([&] { use(read_config(folder.path())); });
}

}  // namespace
}  // namespace fulgur::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fulgur::fuzz::run(data, size);
  return 0;
}
