#include "checkpoint/safetensors_writer.h"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "base/pending_file.h"
#include "checkpoint/safetensors_layout.h"

namespace fulgur {
namespace {

void check_bytes(const TensorToWrite& tensor) {
  size_t bytes = size_bytes(tensor.dtype);
  for (const int64_t dim : tensor.shape) bytes *= static_cast<size_t>(dim);
  if (bytes != tensor.bytes.size()) {
    throw std::logic_error(
        fmt::format("'{}': {} bytes for a shape that takes {}", tensor.name, tensor.bytes.size(), bytes));
  }
}

}  // namespace

void write_safetensors(const std::filesystem::path& path, std::vector<TensorToWrite> tensors) {
  std::sort(tensors.begin(), tensors.end(), [](const TensorToWrite& a, const TensorToWrite& b) {
    const size_t a_width = size_bytes(a.dtype);
    const size_t b_width = size_bytes(b.dtype);
    return a_width != b_width ? a_width > b_width : a.name < b.name;
  });
  std::vector<TensorToPlace> places;
  for (const TensorToWrite& tensor : tensors) {
    check_bytes(tensor);
    places.push_back(
        {tensor.name, name(tensor.dtype), tensor.shape, tensor.bytes.size(), size_bytes(tensor.dtype)});
  }
  const SafetensorsLayout layout = lay_out(places, /*metadata=*/false);
  PendingFile file(path);
  file.append(std::as_bytes(std::span(layout.head)));
  for (const TensorToWrite& tensor : tensors) file.append(tensor.bytes);
  file.commit();
}

}  // namespace fulgur
