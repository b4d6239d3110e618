#include "checkpoint/shard_writer.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "checkpoint/safetensors_layout.h"
#include "checkpoint/shard_index.h"

namespace fulgur {
namespace {

uint64_t module_bytes(const ConvertedModule& module) {
  uint64_t bytes = 0;
  for (const ConvertedTensor& tensor : module.tensors) bytes += tensor.bytes;
  return bytes;
}

TensorToPlace to_place(const ConvertedTensor& tensor) {
  return {tensor.name, tensor.dtype, tensor.shape, tensor.bytes, tensor.element_bytes};
}

/// What a module adds to a file at most: tensors, and their part of the header.
uint64_t most_file_bytes(const ConvertedModule& module) {
  uint64_t bytes = module_bytes(module);
  for (const ConvertedTensor& tensor : module.tensors) bytes += most_header_bytes(to_place(tensor));
  return bytes;
}

/// The modules of each file.
std::vector<std::span<const ConvertedModule>> deal_out(std::span<const ConvertedModule> modules,
                                                       uint64_t shard_bytes) {
  std::vector<std::span<const ConvertedModule>> shards;
  size_t first = 0;
  uint64_t held = kMostOtherHeaderBytes;
  for (size_t i = 0; i < modules.size(); ++i) {
    const uint64_t bytes = most_file_bytes(modules[i]);
    if (i > first && held + bytes > shard_bytes) {
      shards.push_back(modules.subspan(first, i - first));
      first = i;
      held = kMostOtherHeaderBytes;
    }
    held += bytes;
  }
  shards.push_back(modules.subspan(first));
  return shards;
}

/// The next size that is written with one digit and a unit: 700KB.
struct RoundSize {
  uint64_t digit = 1;
  uint64_t unit = 1;
  [[nodiscard]] uint64_t bytes() const { return digit * unit; }
  [[nodiscard]] std::string text() const {
    constexpr std::pair<uint64_t, std::string_view> kUnits[] = {
        {1'000'000'000, "GB"}, {1'000'000, "MB"}, {1'000, "KB"}};
    for (const auto& [size, name] : kUnits) {
      if (bytes() % size == 0) return fmt::format("{}{}", bytes() / size, name);
    }
    return fmt::format("{}B", bytes());
  }
  void grow() {
    if (++digit < 10) return;
    digit = 1;
    unit *= 10;
  }
};

/// The smallest round size that makes no more files than an index may list.
RoundSize least_shard_size(std::span<const ConvertedModule> modules) {
  RoundSize size;
  while (size.bytes() < converted_bytes(modules) / kMostShards) size.grow();
  while (deal_out(modules, size.bytes()).size() > kMostShards) size.grow();
  return size;
}

SafetensorsLayout layout_of(std::span<const ConvertedModule> shard) {
  std::vector<TensorToPlace> places;
  for (const ConvertedModule& module : shard) {
    for (const ConvertedTensor& tensor : module.tensors) places.push_back(to_place(tensor));
  }
  return lay_out(places, /*metadata=*/true);
}

void write_index(const PendingFolder& folder, const nlohmann::json& weight_map, uint64_t total_bytes) {
  const nlohmann::json index = {{"metadata", {{"total_size", total_bytes}}}, {"weight_map", weight_map}};
  folder.write(kIndexFile, index.dump(2) + "\n");
}

}  // namespace

uint64_t converted_bytes(std::span<const ConvertedModule> modules) {
  uint64_t bytes = 0;
  for (const ConvertedModule& module : modules) bytes += module_bytes(module);
  return bytes;
}

void check_shard_size(std::span<const ConvertedModule> modules, uint64_t shard_bytes) {
  const size_t files = deal_out(modules, shard_bytes).size();
  if (files <= kMostShards) return;
  throw Error(Problem{
      .kind = ErrorKind::kBadRequest,
      .message =
          fmt::format("Files of {} bytes would be {}, more than a checkpoint may have.", shard_bytes, files),
      .expected = fmt::format("at most {} files", kMostShards),
      .found = fmt::format("{} bytes of tensors, in {} files", converted_bytes(modules), files),
      .todo = fmt::format("give --shard-size {}, or more", least_shard_size(modules).text())});
}

WrittenShards write_shards(const PendingFolder& folder, std::span<const ConvertedModule> modules,
                           uint64_t shard_bytes, ModuleConverter& converter, const LoadProgress& progress) {
  const uint64_t total = converted_bytes(modules);
  uint64_t done = 0;
  const auto shards = deal_out(modules, shard_bytes);
  nlohmann::json weight_map = nlohmann::json::object();
  WrittenShards written{.num_files = shards.size()};
  for (size_t s = 0; s < shards.size(); ++s) {
    const std::string name = shards.size() == 1
                                 ? "model.safetensors"
                                 : fmt::format("model-{:05}-of-{:05}.safetensors", s + 1, shards.size());
    const SafetensorsLayout layout = layout_of(shards[s]);
    OutputFile file = folder.create(name);
    file.append(std::as_bytes(std::span(layout.head)));
    auto offsets = layout.offsets.begin();
    for (const ConvertedModule& module : shards[s]) {
      converter.convert(module, [&](size_t tensor, uint64_t offset, std::span<const std::byte> bytes) {
        file.write_at(offsets[static_cast<ptrdiff_t>(tensor)] + offset, bytes);
        done += bytes.size();
        if (progress) progress(done, total);
      });
      offsets += static_cast<ptrdiff_t>(module.tensors.size());
      written.num_tensors += module.tensors.size();
      for (const ConvertedTensor& tensor : module.tensors) weight_map[tensor.name] = name;
    }
    file.finish();
    if (layout.file_bytes > shard_bytes) ++written.num_larger;
    written.largest_bytes = std::max(written.largest_bytes, layout.file_bytes);
  }
  if (shards.size() > 1) write_index(folder, weight_map, total);
  return written;
}

}  // namespace fulgur
