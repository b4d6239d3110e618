#include "checkpoint/safetensors_writer.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string_view>
#include <utility>

#include "base/pending_file.h"

namespace fulgur {
namespace {

constexpr size_t kDataAlignment =
    64;  // of the first tensor, so that a mapped file starts like allocated memory

void check(const std::vector<TensorToWrite>& sorted) {
  std::vector<std::string_view> names;
  for (const TensorToWrite& tensor : sorted) {
    size_t bytes = size_bytes(tensor.dtype);
    for (const int64_t dim : tensor.shape) bytes *= static_cast<size_t>(dim);
    if (bytes != tensor.bytes.size()) {
      throw std::logic_error(
          fmt::format("'{}': {} bytes for a shape that takes {}", tensor.name, tensor.bytes.size(), bytes));
    }
    names.push_back(tensor.name);
  }
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice != names.end()) throw std::logic_error(fmt::format("'{}' is to be written twice", *twice));
}

std::string header_of(const std::vector<TensorToWrite>& sorted) {
  std::string header = "{";
  size_t begin = 0;
  for (const TensorToWrite& tensor : sorted) {
    const size_t end = begin + tensor.bytes.size();
    header += fmt::format(R"({}{}:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})",
                          header.size() > 1 ? "," : "", nlohmann::json(tensor.name).dump(),
                          name(tensor.dtype), fmt::join(tensor.shape, ","), begin, end);
    begin = end;
  }
  header += "}";
  const size_t unpadded = sizeof(uint64_t) + header.size();
  header.append((kDataAlignment - unpadded % kDataAlignment) % kDataAlignment, ' ');
  return header;
}

}  // namespace

void write_safetensors(const std::filesystem::path& path, std::vector<TensorToWrite> tensors) {
  std::sort(tensors.begin(), tensors.end(), [](const TensorToWrite& a, const TensorToWrite& b) {
    const size_t a_width = size_bytes(a.dtype);
    const size_t b_width = size_bytes(b.dtype);
    return a_width != b_width ? a_width > b_width : a.name < b.name;
  });
  check(tensors);
  const std::string header = header_of(tensors);
  const uint64_t length = header.size();
  PendingFile file(path);
  file.append(std::as_bytes(std::span(&length, 1)));
  file.append(std::as_bytes(std::span(header)));
  for (const TensorToWrite& tensor : tensors) file.append(tensor.bytes);
  file.commit();
}

}  // namespace fulgur
