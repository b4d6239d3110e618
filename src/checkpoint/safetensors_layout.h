#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fulgur {

/// A tensor that a safetensors file is to hold. Views of the caller's.
struct TensorToPlace {
  std::string_view name;
  std::string_view dtype;  // as headers spell it
  std::span<const int64_t> shape;
  uint64_t bytes = 0;
  uint64_t element_bytes = 1;
};

/// Where everything goes in a safetensors file.
struct SafetensorsLayout {
  std::string head;               // the header and its length: the file's first bytes
  std::vector<uint64_t> offsets;  // of each tensor, from the file's start
  uint64_t file_bytes = 0;
};

/// Every tensor aligned to its type: wider types come first, otherwise they keep their order. `metadata`:
/// says
/// {"format": "pt"}, without which Hugging Face transformers reads no checkpoint. Names that stand twice are
/// the caller's mistake (std::logic_error).
SafetensorsLayout lay_out(std::span<const TensorToPlace> tensors, bool metadata);

/// What a header takes at most: for each tensor, wherever it lies, and beside all of them.
uint64_t most_header_bytes(const TensorToPlace& tensor);
extern const uint64_t kMostOtherHeaderBytes;

}  // namespace fulgur
