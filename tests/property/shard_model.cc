#include "property/shard_model.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <stdexcept>

namespace fulgur::property {

ShardDraw draw_shards(const Pick& pick) {
  ShardDraw draw;
  draw.num_shards = pick(1, 4);
  draw.index = pick(0, 2);
  draw.order = pick(0, 1'000'000);
  draw.padding = pick(0, 7);
  return draw;
}

std::string in_words(const ShardDraw& draw) {
  constexpr std::string_view kIndexes[] = {"no index", "an index", "an index that omits every third tensor"};
  return fmt::format("{} shards with {}, order {}, headers padded by {}", draw.num_shards,
                     kIndexes[static_cast<size_t>(draw.index)], draw.order, draw.padding);
}

size_t ShardedFiles::shard_of(const std::string& tensor) const {
  for (size_t i = 0; i < shards.size(); ++i) {
    for (const TestTensor& held : shards[i]) {
      if (held.name == tensor) return i;
    }
  }
  throw std::logic_error(fmt::format("{} is in no shard", tensor));
}

ShardedFiles shard(const StoredModel& model, const ShardDraw& draw) {
  std::vector<const TestTensor*> tensors;
  for (const StoredTensor& stored : model.tensors) tensors.push_back(&stored.tensor);
  Numbers numbers(static_cast<uint64_t>(draw.order), "order");
  for (size_t i = tensors.size(); i > 1; --i) std::swap(tensors[i - 1], tensors[numbers.next() % i]);

  ShardedFiles files{.padding = draw.padding};
  const auto count = static_cast<size_t>(draw.num_shards);
  for (size_t i = 0; i < count; ++i) {
    files.names.push_back(count == 1 ? "model.safetensors"
                                     : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, count));
  }
  files.shards.resize(count);
  for (size_t i = 0; i < tensors.size(); ++i) {
    files.shards[i % count].push_back(*tensors[i]);
    if (draw.index == 1 || (draw.index == 2 && i / count % 3 != 2))
      files.listed.emplace_back(tensors[i]->name, files.names[i % count]);
  }
  return files;
}

void write_files(const ShardedFiles& files, const StoredModel& model, const std::filesystem::path& folder) {
  for (size_t i = 0; i < files.names.size(); ++i) {
    write_bytes(folder / files.names[i],
                good_safetensors(files.shards[i], static_cast<size_t>(files.padding) + i));
  }
  if (!files.listed.empty()) {
    std::vector<std::string> lines;
    for (const auto& [tensor, file] : files.listed)
      lines.push_back(fmt::format(R"("{}": "{}")", tensor, file));
    write_bytes(folder / "model.safetensors.index.json",
                fmt::format(R"({{"metadata": {{}}, "weight_map": {{{}}}}})", fmt::join(lines, ", ")));
  }
  write_bytes(folder / "config.json", model.config);
  if (!model.quant_config.empty()) write_bytes(folder / "hf_quant_config.json", model.quant_config);
}

}  // namespace fulgur::property
