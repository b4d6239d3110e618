#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/catalog.h"
#include "checkpoint/json_events.h"

namespace fulgur {

/// A tensor as its header entry gives it: offsets from the start of the data.
struct DescribedTensor {
  CatalogEntry entry;
  uint64_t begin = 0;
  uint64_t end = 0;
};

/// Reads a safetensors header, name -> {dtype, shape, data_offsets}, in one pass. Every entry has just these
/// fields, each once and of its type; what they say is not looked at.
class HeaderEvents final : public JsonEvents {
 public:
  explicit HeaderEvents(int file) : file_(file) {}

  [[nodiscard]] std::vector<DescribedTensor> take() { return std::move(tensors_); }
  /// The tensor whose entry ended the parse, if one did.
  [[nodiscard]] const std::string& stopped_at() const { return stopped_at_; }

  bool start_object(size_t) override;
  bool end_object() override;
  bool null() override;
  bool key(std::string& name) override;
  bool start_array(size_t) override;
  bool end_array() override;
  bool string(std::string& value) override;
  bool number_unsigned(uint64_t value) override;
  bool number_integer(int64_t value) override;

 private:
  enum class Place {
    kOutside,
    kTop,     // between tensors
    kTensor,  // before a tensor's object
    kFields,  // in it
    kDType,   // before a field's value
    kShape,
    kOffsets,
    kDims,  // in the list
    kOffsetValues,
    kMetadata,  // before its object
    kMetadataFields,
  };
  struct Seen {
    bool dtype = false;
    bool shape = false;
    bool offsets = false;
  };

  bool field(std::string_view name);
  bool end_tensor();
  bool end_metadata();
  bool unexpected(std::string_view value) override;
  /// Ends the parse at a fault of the tensor being read.
  bool stop_at(std::string_view fault);

  const int file_;
  Place place_ = Place::kOutside;
  Seen seen_;
  int num_offsets_ = 0;
  bool has_metadata_ = false;
  std::vector<std::string> metadata_keys_;
  std::vector<DescribedTensor> tensors_;
  std::string stopped_at_;
};

}  // namespace fulgur
