#include "checkpoint/safetensors_layout.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
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

std::string entry_text(const TensorToPlace& tensor, uint64_t begin, uint64_t end) {
  return fmt::format(R"({}:{{"dtype":{},"shape":[{}],"data_offsets":[{},{}]}})", quoted(tensor.name),
                     quoted(tensor.dtype), fmt::join(tensor.shape, ","), begin, end);
}

constexpr std::string_view kMetadata = R"("__metadata__":{"format":"pt"})";

}  // namespace

const uint64_t kMostOtherHeaderBytes =
    sizeof(uint64_t) + std::string_view("{}").size() + kMetadata.size() + kDataAlignment;

uint64_t most_header_bytes(const TensorToPlace& tensor) {
  constexpr uint64_t kFarthest = std::numeric_limits<uint64_t>::max();
  return entry_text(tensor, kFarthest, kFarthest).size() + std::string_view(",").size();
}

SafetensorsLayout lay_out(std::span<const TensorToPlace> tensors, bool metadata) {
  check_unique(tensors);
  std::vector<size_t> order(tensors.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return tensors[a].element_bytes > tensors[b].element_bytes; });
  std::string header = "{";
  if (metadata) header += kMetadata;
  SafetensorsLayout layout{.offsets = std::vector<uint64_t>(tensors.size())};
  uint64_t begin = 0;
  for (const size_t i : order) {
    const TensorToPlace& tensor = tensors[i];
    const uint64_t end = begin + tensor.bytes;
    if (header.size() > 1) header += ",";
    header += entry_text(tensor, begin, end);
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
