#include "checkpoint/safetensors_writer.h"

#include <fmt/format.h>

#include <stdexcept>

namespace fulgur {

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path,
                                     std::span<const TensorToPlace> tensors)
    : SafetensorsWriter(path, tensors, lay_out(tensors, /*metadata=*/false)) {}

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path,
                                     std::span<const TensorToPlace> tensors, const SafetensorsLayout& layout)
    : file_(path) {
  places_.reserve(tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) places_.push_back({layout.offsets[i], tensors[i].bytes});
  file_.append(std::as_bytes(std::span(layout.head)));
}

void SafetensorsWriter::write(size_t tensor, std::span<const std::byte> bytes) {
  const Place& place = places_.at(tensor);
  if (bytes.size() != place.bytes) {
    throw std::logic_error(
        fmt::format("tensor {} is written with {} bytes and takes {}", tensor, bytes.size(), place.bytes));
  }
  file_.write_at(place.offset, bytes);
}

void SafetensorsWriter::commit() { file_.commit(); }

}  // namespace fulgur
