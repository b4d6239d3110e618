#include "property/damage_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace fulgur::property {
namespace {

using Use = StoredTensor::Use;
using Predicate = std::function<bool(const StoredTensor&)>;

size_t num_elements(const TestTensor& tensor) {
  size_t count = 1;
  for (const int64_t dim : tensor.shape) count *= static_cast<size_t>(dim);
  return count;
}

/// What a module's weight is called where none is there: by its plain name, and the indexer's projection by
/// its first spelling.
std::string missed_name(const std::string& weight) {
  std::string name = weight;
  if (name.ends_with(".weight_packed")) name = module_of(name) + "weight";
  const std::string fused = "indexer.wk_weights_proj.weight";
  if (name.ends_with(fused)) name.replace(name.size() - fused.size(), fused.size(), "indexer.wk.weight");
  return name;
}

class Damager {
 public:
  Damager(const ModelDraw& draw, const StoredModel& good, const ShardDraw& shards, const DamageDraw& damage)
      : draw_(draw), shards_(shards), damage_(damage) {
    result_.model = good;
  }

  DamagedModel apply() {
    // One that this checkpoint can't have gives way to the next.
    for (size_t i = 0; i < std::size(kDefects); ++i) {
      const Defect defect = kDefects[(static_cast<size_t>(damage_.kind) + i) % std::size(kDefects)];
      result_.mtp = false;
      if ((this->*defect)()) break;
    }
    if (result_.files.names.empty()) result_.files = shard(result_.model, shards_);
    return std::move(result_);
  }

 private:
  using Defect = bool (Damager::*)();

  std::vector<StoredTensor>& tensors() { return result_.model.tensors; }

  /// The one that was drawn among those that fit; the MTP layer's only where it is used.
  StoredTensor* choose(const Predicate& fits) {
    std::vector<StoredTensor*> candidates;
    for (StoredTensor& tensor : tensors()) {
      if (tensor.use != Use::kIgnored && !(tensor.mtp && draw_.mtp == Mtp::kStray) && fits(tensor))
        candidates.push_back(&tensor);
    }
    if (candidates.empty()) return nullptr;
    StoredTensor* chosen = candidates[static_cast<size_t>(damage_.where) % candidates.size()];
    result_.mtp = chosen->mtp;
    return chosen;
  }
  static bool is_weight(const StoredTensor& t) { return t.use == Use::kWeight; }
  static bool is_scale(const StoredTensor& t) { return t.use == Use::kScale; }
  /// The MTP layer does without its copies.
  static bool is_needed_weight(const StoredTensor& t) {
    return is_weight(t) && !(t.mtp && (t.tensor.name.ends_with(".embed_tokens.weight") ||
                                       t.tensor.name.ends_with(".shared_head.head.weight")));
  }

  void expect(ErrorKind kind, const std::string& name) { result_.expected.push_back({kind, name}); }
  void expect_orphans(const std::string& weight) {
    for (const StoredTensor& t : tensors()) {
      if (t.weight == weight) expect(ErrorKind::kOrphanScale, t.tensor.name);
    }
  }
  bool say(std::string words) {
    result_.in_words = std::move(words);
    return true;
  }
  void erase(const std::string& name) {
    std::erase_if(tensors(), [&](const StoredTensor& t) { return t.tensor.name == name; });
  }
  void add(TestTensor tensor) { tensors().push_back({.tensor = std::move(tensor), .use = Use::kWeight}); }

  bool drop_weight() {
    const StoredTensor* chosen = choose(is_needed_weight);
    const std::string name = chosen->tensor.name;
    expect(ErrorKind::kMissingTensor, missed_name(name));
    expect_orphans(name);
    erase(name);
    return say(name + " is missing");
  }

  bool drop_scale() {
    const StoredTensor* chosen = choose(is_scale);
    if (chosen == nullptr) return false;
    const std::string name = chosen->tensor.name;
    expect(ErrorKind::kMissingScale, chosen->weight);
    erase(name);
    return say(name + " is missing");
  }

  bool rename() {
    StoredTensor* chosen = choose([](const StoredTensor& t) { return is_needed_weight(t) || is_scale(t); });
    const std::string name = chosen->tensor.name;
    if (is_scale(*chosen)) {
      expect(ErrorKind::kMissingScale, chosen->weight);
    } else {
      expect(ErrorKind::kMissingTensor, missed_name(name));
      expect_orphans(name);
    }
    chosen->tensor.name += "s";
    expect(ErrorKind::kUnexpectedTensor, chosen->tensor.name);
    return say(name + " is called " + chosen->tensor.name);
  }

  /// Whether FP8 scales of another declared shape would look like this.
  bool could_be_scales(const StoredTensor& scale, const std::vector<int64_t>& shape) {
    const auto weight = std::find_if(tensors().begin(), tensors().end(),
                                     [&](const StoredTensor& t) { return t.tensor.name == scale.weight; });
    if (weight->tensor.dtype != "F8_E4M3" || shape.size() != 2) return false;
    const int64_t rows = weight->tensor.shape[0];
    const int64_t cols = weight->tensor.shape[1];
    constexpr int64_t kBlock = 128;
    const std::vector<int64_t> grid = {(rows + kBlock - 1) / kBlock, (cols + kBlock - 1) / kBlock};
    return (result_.model.block_scales && shape == grid) ||
           (result_.model.row_scales && shape == std::vector<int64_t>{rows, 1});
  }

  bool reshape() {
    StoredTensor* chosen = choose([](const StoredTensor& t) { return is_weight(t) || is_scale(t); });
    TestTensor& tensor = chosen->tensor;
    const size_t width = tensor.data.size() / num_elements(tensor);
    if (tensor.shape.empty()) {
      tensor.shape = {2};
    } else {
      const std::vector<int64_t> before = tensor.shape;
      ++tensor.shape[static_cast<size_t>(damage_.how) % tensor.shape.size()];
      if (is_scale(*chosen) && could_be_scales(*chosen, tensor.shape)) {
        tensor.shape = before;
        tensor.shape.push_back(1);
      }
    }
    tensor.data.resize(num_elements(tensor) * width);
    expect(ErrorKind::kShapeMismatch, tensor.name);
    return say(fmt::format("{} has another shape", tensor.name));
  }

  bool retype() {
    StoredTensor* chosen = choose([](const StoredTensor& t) { return is_weight(t) || is_scale(t); });
    TestTensor& tensor = chosen->tensor;
    constexpr std::string_view kTypes[] = {"I32", "F64", "F6_E3M2"};
    tensor.dtype = kTypes[damage_.how % 3];
    if (damage_.how % 3 < 2) tensor.data.resize(num_elements(tensor) * (damage_.how % 3 == 0 ? 4 : 8));
    expect(ErrorKind::kUnknownDType, tensor.name);
    return say(fmt::format("{} is {}", tensor.name, tensor.dtype));
  }

  bool quantize_what_never_is() {
    StoredTensor* chosen = choose([](const StoredTensor& t) {
      return is_weight(t) && !t.projection && t.tensor.name.ends_with(".weight");
    });
    TestTensor& tensor = chosen->tensor;
    tensor.data.resize(tensor.data.size() / (tensor.dtype == "F32" ? 4 : 2));
    std::fill(tensor.data.begin(), tensor.data.end(), '\x38');
    tensor.dtype = "F8_E4M3";
    const std::string name = tensor.name;
    expect(ErrorKind::kUnknownDType, name);
    add(counting(module_of(name) + "weight_scale_inv", DType::kF32, {1, 1}, 1));
    return say(name + " is FP8");
  }

  bool u8_scale() {
    StoredTensor* chosen =
        choose([](const StoredTensor& t) { return is_scale(t) && t.tensor.dtype == "F8_E8M0"; });
    if (chosen == nullptr || result_.model.u8_scales) return false;
    chosen->tensor.dtype = "U8";
    expect(ErrorKind::kUnknownDType, chosen->tensor.name);
    return say(chosen->tensor.name + " is U8 without scale_fmt ue8m0");
  }

  bool half_pair() {
    const StoredTensor* chosen = choose([](const StoredTensor& t) {
      const std::string module = module_of(t.tensor.name);
      return is_weight(t) && (module.ends_with(".indexer.wk.") || module.ends_with(".indexer.weights_proj."));
    });
    if (chosen == nullptr) return false;
    const std::string name = chosen->tensor.name;
    expect(ErrorKind::kMissingTensor, missed_name(name));
    const std::string module = module_of(name);
    std::erase_if(tensors(), [&](const StoredTensor& t) { return module_of(t.tensor.name) == module; });
    return say(fmt::format("{} is missing with its scales, the other half is there", name));
  }

  bool fused_beside_pair() {
    if (!draw_.sparse()) return false;
    const std::string indexer = "model.layers.0.self_attn.indexer.";
    const bool fused = std::any_of(tensors().begin(), tensors().end(), [&](const StoredTensor& t) {
      return t.tensor.name == indexer + "wk_weights_proj.weight";
    });
    const int64_t rows = fused ? draw_.index_head_dim : draw_.index_head_dim + draw_.index_heads;
    const std::string name = indexer + (fused ? "wk.weight" : "wk_weights_proj.weight");
    add(counting(name, DType::kBf16, {rows, draw_.hidden}));
    expect(ErrorKind::kConflictingTensors, name);
    return say(name + " stands beside the other spelling");
  }

  bool orphan_scale() {
    const StoredTensor* chosen = choose(is_weight);
    const bool fp8 = chosen->tensor.dtype == "F8_E4M3";
    const std::string module = module_of(chosen->tensor.name);
    const bool inverse = std::any_of(tensors().begin(), tensors().end(), [&](const StoredTensor& t) {
      return t.tensor.name == module + "weight_scale_inv";
    });
    std::string name = module + (inverse ? "weight_scale" : "weight_scale_inv");
    if (module.ends_with(".indexer.wk_weights_proj.") && damage_.how % 2 == 0)
      name = missed_name(chosen->tensor.name) + "_scale_inv";  // left behind when wk was fused
    const bool second = fp8 && name.starts_with(module);
    expect(second ? ErrorKind::kConflictingTensors : ErrorKind::kOrphanScale, name);
    const bool mtp = chosen->mtp;
    add(counting(name, DType::kF32, {1, 1}, 1));
    result_.mtp = mtp;
    return say(name + " is a scale too many");
  }

  bool bad_scale() {
    StoredTensor* chosen = choose(is_scale);
    if (chosen == nullptr) return false;
    TestTensor& tensor = chosen->tensor;
    const bool of_matrix =
        tensor.name.ends_with(".weight_scale_2") || tensor.name.ends_with(".weight_global_scale");
    std::string value = "\xff";                                                     // NaN of E8M0
    if (tensor.dtype == "F8_E4M3") value = damage_.how % 2 == 0 ? "\x7f" : "\xb8";  // NaN, -1
    if (tensor.dtype == "F32" || tensor.dtype == "BF16") {
      using namespace std::string_literals;
      const std::string values[] = {"\0\0\xc0\x7f"s, "\0\0\x80\x7f"s, "\0\0\x80\xbf"s,
                                    "\0\0\0\0"s};  // NaN inf -1 0
      value = values[damage_.how % (of_matrix ? 4 : 3)];
      if (tensor.dtype == "BF16") value = value.substr(2);
    }
    const size_t at = static_cast<size_t>(damage_.where) % (tensor.data.size() / value.size());
    tensor.data.replace(at * value.size(), value.size(), value);
    expect(ErrorKind::kBadScale, tensor.name);
    return say(tensor.name + " holds what no scale can be");
  }

  bool bad_weight() {
    StoredTensor* chosen =
        choose([](const StoredTensor& t) { return is_weight(t) && t.tensor.dtype != "U8"; });
    if (chosen == nullptr) return false;
    TestTensor& tensor = chosen->tensor;
    using namespace std::string_literals;
    std::string value = "\0\0\x80\x7f"s;  // infinity
    if (tensor.dtype == "BF16") value = "\xc0\x7f"s;
    if (tensor.dtype == "F16") value = "\x01\x7e"s;
    if (tensor.dtype == "F8_E4M3") value = "\xff"s;
    size_t at = static_cast<size_t>(damage_.how) % (tensor.data.size() / value.size()) * value.size();
    // Where a scale may be 0, a code that isn't would be a second defect.
    if (chosen->quantized) at = tensor.data.find_first_not_of("\0\x80"s);
    if (at == std::string::npos) return false;
    tensor.data.replace(at, value.size(), value);
    expect(ErrorKind::kBadValue, tensor.name);
    return say(tensor.name + " holds a NaN or infinity");
  }

  bool extra_tensor() {
    constexpr std::string_view kNames[] = {"wk_extra.weight", "mywk.weight",
                                           "wk_weights_proj_weights_proj.weight", "wk.weight.wk"};
    const std::string name = fmt::format("model.layers.0.self_attn.indexer.{}", kNames[damage_.how % 4]);
    add(counting(name, DType::kBf16, {2, 2}));
    if (draw_.sparse()) {
      expect(ErrorKind::kUnexpectedTensor, name);
    } else {
      expect(ErrorKind::kBadConfig, "model_type");
    }
    return say(name + " is of no use");
  }

  bool expert_too_many() {
    const auto moe = std::find(draw_.moe_layer.begin(), draw_.moe_layer.end(), true);
    if (moe == draw_.moe_layer.end()) return false;
    const std::string name = fmt::format("model.layers.{}.mlp.experts.{}.down_proj.weight",
                                         moe - draw_.moe_layer.begin(), draw_.num_experts());
    add(counting(name, DType::kBf16, {draw_.hidden, draw_.moe_intermediate}));
    expect(ErrorKind::kUnexpectedTensor, name);
    return say(name + " is of no expert");
  }

  const TestTensor& any_tensor() {
    result_.files = shard(result_.model, shards_);
    return tensors()[static_cast<size_t>(damage_.where) % tensors().size()].tensor;
  }

  bool duplicate() {
    const TestTensor& tensor = any_tensor();
    const size_t shard = result_.files.shard_of(tensor.name);
    const size_t other = (shard + 1) % result_.files.shards.size();
    result_.files.shards[other].push_back(tensor);
    expect(other == shard ? ErrorKind::kBadHeader : ErrorKind::kBadIndex, tensor.name);
    return say(tensor.name + " is there twice");
  }

  bool wrong_index() {
    if (shards_.index == 0) return false;
    const std::string tensor = any_tensor().name;
    auto& listed = result_.files.listed;
    std::erase_if(listed, [&](const auto& line) { return line.first == tensor; });
    const size_t shard = result_.files.shard_of(tensor);
    const size_t count = result_.files.names.size();
    const std::string& other = result_.files.names[(shard + 1) % count];
    std::pair<std::string, std::string> line = {tensor, other};
    if (damage_.how % 3 == 1 || count == 1) line = {tensor + "_gone", other};
    if (damage_.how % 3 == 2) line = {tensor, "../" + other};
    listed.push_back(line);
    expect(ErrorKind::kBadIndex, line.first);
    return say(fmt::format("the index places {} in {}", line.first, line.second));
  }

  bool missing_shard() {
    if (shards_.num_shards == 1) return false;
    result_.files = shard(result_.model, shards_);
    const size_t gone = static_cast<size_t>(damage_.where) % result_.files.names.size();
    const std::string file = result_.files.names[gone];
    result_.after_writing = [file](const std::filesystem::path& folder) {
      std::filesystem::remove(folder / file);
    };
    expect(ErrorKind::kBadIndex, shards_.index > 0 ? file : fmt::format("number {} of", gone + 1));
    return say(file + " is missing");
  }

  bool truncate() {
    result_.files = shard(result_.model, shards_);
    const std::string file =
        result_.files.names[static_cast<size_t>(damage_.where) % result_.files.names.size()];
    result_.after_writing = [file, how = damage_.how](const std::filesystem::path& folder) {
      const auto size = std::filesystem::file_size(folder / file);
      std::filesystem::resize_file(folder / file, size - 1 - static_cast<uint64_t>(how) * 37 % size);
    };
    expect(ErrorKind::kTruncatedFile, file);
    return say(file + " is cut short");
  }

  static constexpr Defect kDefects[] = {&Damager::drop_weight,
                                        &Damager::drop_scale,
                                        &Damager::rename,
                                        &Damager::reshape,
                                        &Damager::retype,
                                        &Damager::half_pair,
                                        &Damager::fused_beside_pair,
                                        &Damager::orphan_scale,
                                        &Damager::bad_scale,
                                        &Damager::bad_weight,
                                        &Damager::extra_tensor,
                                        &Damager::expert_too_many,
                                        &Damager::u8_scale,
                                        &Damager::quantize_what_never_is,
                                        &Damager::duplicate,
                                        &Damager::wrong_index,
                                        &Damager::missing_shard,
                                        &Damager::truncate};

 public:
  static constexpr int64_t kNumDefects = std::size(kDefects);

 private:
  const ModelDraw& draw_;
  const ShardDraw& shards_;
  const DamageDraw& damage_;
  DamagedModel result_;
};

}  // namespace

int64_t num_defects() { return Damager::kNumDefects; }

DamageDraw draw_damage(const Pick& pick) {
  DamageDraw draw;
  draw.kind = pick(0, num_defects() - 1);
  draw.where = pick(0, 1'000'000);
  draw.how = pick(0, 100);
  return draw;
}

DamagedModel damage(const ModelDraw& draw, const StoredModel& good, const ShardDraw& shards,
                    const DamageDraw& damage) {
  return Damager(draw, good, shards, damage).apply();
}

}  // namespace fulgur::property
