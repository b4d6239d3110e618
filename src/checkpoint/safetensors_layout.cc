#include "checkpoint/safetensors_layout.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>
#include <stdexcept>

namespace fulgur {
namespace {

constexpr size_t kDataAlignment =
    64;  // of the first tensor, so that a mapped file starts like allocated memory

void check_unique(std::span<const TensorToPlace> tensors) {
  std::vector<std::string_view> names;
  for (const TensorToPlace& tensor : tensors) names.push_back(tensor.name);
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice != names.end()) throw std::logic_error(fmt::format("'{}' is to be written twice", *twice));
}

std::string quoted(std::string_view text) { return nlohmann::json(text).dump(); }

}  // namespace

SafetensorsLayout lay_out(std::span<const TensorToPlace> tensors, bool metadata) {
  check_unique(tensors);
  std::vector<size_t> order(tensors.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return tensors[a].element_bytes > tensors[b].element_bytes; });
  std::string header = metadata ? R"({"__metadata__":{"format":"pt"})" : "{";
  SafetensorsLayout layout{.offsets = std::vector<uint64_t>(tensors.size())};
  uint64_t begin = 0;
  for (const size_t i : order) {
    const TensorToPlace& tensor = tensors[i];
    const uint64_t end = begin + tensor.bytes;
    header += fmt::format(R"({}{}:{{"dtype":{},"shape":[{}],"data_offsets":[{},{}]}})",
                          header.size() > 1 ? "," : "", quoted(tensor.name), quoted(tensor.dtype),
                          fmt::join(tensor.shape, ","), begin, end);
    layout.offsets[i] = begin;
    begin = end;
  }
  header += "}";
  const size_t unpadded = sizeof(uint64_t) + header.size();
  header.append((kDataAlignment - unpadded % kDataAlignment) % kDataAlignment, ' ');
  const uint64_t length = header.size();
  layout.head.assign(reinterpret_cast<const char*>(&length), sizeof length);
  layout.head += header;
  for (uint64_t& offset : layout.offsets) offset += layout.head.size();
  layout.file_bytes = layout.head.size() + begin;
  return layout;
}

}  // namespace fulgur
