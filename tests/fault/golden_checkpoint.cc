#include "golden_checkpoint.h"

#include <cstring>
#include <stdexcept>

#include "base/json.h"
#include "checkpoint/catalog.h"
#include "checkpoint/parameter.h"
#include "checkpoint/shard_index.h"

namespace fulgur {
namespace {

constexpr const char* kBeside[] = {"hf_quant_config.json"};

size_t bytes_of(const std::string& dtype, const std::vector<int64_t>& shape) {
  size_t bytes = size_bytes(parse_dtype(dtype).value_or(DType::kU8));
  for (const int64_t dim : shape) bytes *= static_cast<size_t>(dim);
  return bytes;
}

Json& field_of(Json& config, const std::string& field) {
  const size_t dot = field.find('.');
  if (dot == std::string::npos) return config[field];
  return field_of(config[field.substr(0, dot)], field.substr(dot + 1));
}

}  // namespace

std::string module_of(const std::string& tensor) { return tensor.substr(0, tensor.rfind('.') + 1); }
std::string last_of(const std::string& tensor) { return tensor.substr(tensor.rfind('.') + 1); }
bool is_unneeded(const std::string& tensor) { return last_of(tensor).starts_with("input_"); }
bool is_scale(const std::string& tensor) {
  return is_unneeded(tensor) || last_of(tensor).starts_with("weight_scale") ||
         last_of(tensor) == "weight_global_scale";
}

GoldenCheckpoint GoldenCheckpoint::read(std::string_view golden) {
  static std::map<std::string, GoldenCheckpoint, std::less<>> known;
  if (const auto found = known.find(golden); found != known.end()) return found->second;
  const std::filesystem::path folder = golden_folder(golden);
  GoldenCheckpoint checkpoint;
  checkpoint.name_ = golden;
  checkpoint.config_ = read_bytes(folder / "config.json");
  checkpoint.num_layers_ = checkpoint.number("num_hidden_layers");
  checkpoint.indexed_ = std::filesystem::exists(folder / kIndexFile);
  const Catalog catalog = read_catalog(folder);
  for (const auto& file : catalog.files) checkpoint.shards_.push_back({.file = file->file_name()});
  std::vector<const CatalogEntry*> in_order;
  for (const CatalogEntry& entry : catalog.entries) in_order.push_back(&entry);
  std::sort(in_order.begin(), in_order.end(),
            [](const CatalogEntry* a, const CatalogEntry* b) { return a->offset < b->offset; });
  for (const CatalogEntry* entry : in_order) {
    const auto bytes = catalog.bytes(*entry);
    checkpoint.shards_[static_cast<size_t>(entry->file)].tensors.push_back(
        {entry->name, entry->dtype_name, entry->shape,
         std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size())});
  }
  checkpoint.find_places();
  return known.emplace(golden, std::move(checkpoint)).first->second;
}

void GoldenCheckpoint::find_places() {
  place_.clear();
  for (size_t s = 0; s < shards_.size(); ++s) {
    for (size_t t = 0; t < shards_[s].tensors.size(); ++t) place_[shards_[s].tensors[t].name] = {s, t};
  }
}

std::vector<std::string> GoldenCheckpoint::all(std::string_view pattern) const {
  std::vector<std::string> names;
  for (const auto& [tensor, place] : place_) {
    if (matches_pattern(tensor, pattern)) names.push_back(tensor);
  }
  return names;
}

std::optional<std::string> GoldenCheckpoint::first(std::string_view pattern) const {
  return first_that(pattern, [](const TestTensor&) { return true; });
}

std::optional<std::string> GoldenCheckpoint::first_that(
    std::string_view pattern, const std::function<bool(const TestTensor&)>& holds) const {
  for (const std::string& tensor : all(pattern)) {
    if (holds(at(tensor))) return tensor;
  }
  return std::nullopt;
}

const TestTensor& GoldenCheckpoint::at(const std::string& tensor) const {
  const Place& place = place_.at(tensor);
  return shards_[place.shard].tensors[place.tensor];
}

const std::string& GoldenCheckpoint::file_of(const std::string& tensor) const {
  return shards_[place_.at(tensor).shard].file;
}

std::vector<std::string> GoldenCheckpoint::files() const {
  std::vector<std::string> files;
  for (const Shard& shard : shards_) files.push_back(shard.file);
  return files;
}

TestTensor& GoldenCheckpoint::change(const std::string& tensor) {
  const Place& place = place_.at(tensor);
  shards_[place.shard].touched = true;
  return shards_[place.shard].tensors[place.tensor];
}

void GoldenCheckpoint::store_as(const std::string& tensor, const std::string& dtype,
                                const std::vector<int64_t>& shape) {
  change(tensor) = {tensor, dtype, shape, std::string(bytes_of(dtype, shape), '\0')};
}

void GoldenCheckpoint::erase(const std::string& tensor) {
  const Place place = place_.at(tensor);
  auto& tensors = shards_[place.shard].tensors;
  tensors.erase(tensors.begin() + static_cast<long>(place.tensor));
  shards_[place.shard].touched = true;
  find_places();
}

void GoldenCheckpoint::erase_module(const std::string& tensor) {
  for (const std::string& beside : all(module_of(tensor) + "*")) {
    if (beside == tensor || is_scale(beside)) erase(beside);
  }
}

void GoldenCheckpoint::rename(const std::string& tensor, const std::string& to) {
  change(tensor).name = to;
  find_places();
}

void GoldenCheckpoint::add(const std::string& tensor, const std::string& dtype,
                           const std::vector<int64_t>& shape) {
  shards_.back().tensors.push_back({tensor, dtype, shape, std::string(bytes_of(dtype, shape), '\0')});
  shards_.back().touched = true;
  find_places();
}

void GoldenCheckpoint::add_like(const std::string& tensor, const std::string& like) {
  TestTensor copy = at(like);
  copy.name = tensor;
  shards_.back().tensors.push_back(std::move(copy));
  shards_.back().touched = true;
  find_places();
}

void GoldenCheckpoint::divide() {
  if (shards_.size() > 1) return;
  std::vector<TestTensor>& whole = shards_.front().tensors;
  const auto middle = whole.begin() + static_cast<long>(whole.size() / 2);
  Shard second{.file = "model-00002-of-00002.safetensors", .touched = true};
  second.tensors.assign(std::make_move_iterator(middle), std::make_move_iterator(whole.end()));
  whole.erase(middle, whole.end());
  shards_.front().file = "model-00001-of-00002.safetensors";
  shards_.front().touched = true;
  shards_.push_back(std::move(second));
  indexed_ = true;
  find_places();
}

std::map<std::string, std::string> GoldenCheckpoint::listing() const {
  std::map<std::string, std::string> files;
  for (const Shard& shard : shards_) {
    for (const TestTensor& tensor : shard.tensors) files[tensor.name] = shard.file;
  }
  return files;
}

void GoldenCheckpoint::set(const std::string& field, std::optional<std::string> json) {
  Json config = parse_json(config_, ErrorKind::kBadConfig, "config.json");
  if (json) {
    field_of(config, field) = parse_json(*json, ErrorKind::kBadConfig, field);
  } else {
    config.erase(field);
  }
  config_ = config.dump();
}

int64_t GoldenCheckpoint::number(const std::string& field) const {
  Json config = parse_json(config_, ErrorKind::kBadConfig, "config.json");
  const Json& value = field_of(config, field);
  return value.is_null() ? 0 : value.get<int64_t>();
}

void GoldenCheckpoint::edit_header(const std::string& file, std::function<void(std::string&)> edit) {
  for (Shard& shard : shards_) {
    if (shard.file != file) continue;
    shard.touched = true;
    shard.edit = std::move(edit);
    return;
  }
  throw std::logic_error("no shard " + file);
}

void GoldenCheckpoint::write_index(const TemporaryFolder& folder) const {
  Json index = {{"metadata", Json::object()}, {"weight_map", Json::object()}};
  for (const auto& [tensor, file] : listed_ ? *listed_ : listing()) index["weight_map"][tensor] = file;
  write_bytes(folder / kIndexFile, index.dump());
}

void GoldenCheckpoint::write(const TemporaryFolder& folder) const {
  const std::filesystem::path golden = golden_folder(name_);
  write_bytes(folder / "config.json", config_);
  for (const char* file : kBeside) {
    if (std::filesystem::exists(golden / file)) std::filesystem::create_symlink(golden / file, folder / file);
  }
  for (const Shard& shard : shards_) {
    if (!shard.touched) {
      std::filesystem::create_symlink(golden / shard.file, folder / shard.file);
      continue;
    }
    std::string bytes = good_safetensors(shard.tensors);
    if (shard.edit) {
      uint64_t length = 0;
      std::memcpy(&length, bytes.data(), sizeof length);
      std::string header = bytes.substr(sizeof length, length);
      shard.edit(header);
      bytes = raw_safetensors(header, std::string_view(bytes).substr(sizeof length + length));
    }
    write_bytes(folder / shard.file, bytes);
  }
  if (indexed_) write_index(folder);
  for (const auto& action : actions_) action(folder);
}

}  // namespace fulgur
