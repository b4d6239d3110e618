#include "checkpoint/header_events.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "base/printable.h"

namespace fulgur {
namespace {

constexpr size_t kMostDimensions = 32;
constexpr std::string_view kMetadata = "__metadata__";

}  // namespace

bool HeaderEvents::start_object(size_t) {
  switch (place_) {
    case Place::kOutside:
      place_ = Place::kTop;
      return true;
    case Place::kTensor:
      place_ = Place::kFields;
      seen_ = {};
      return true;
    case Place::kMetadata:
      place_ = Place::kMetadataFields;
      return true;
    default:
      return unexpected("an object");
  }
}

bool HeaderEvents::end_object() {
  if (place_ == Place::kFields) return end_tensor();
  if (place_ == Place::kMetadataFields) return end_metadata();
  place_ = Place::kOutside;
  return true;
}

bool HeaderEvents::end_tensor() {
  place_ = Place::kTop;
  if (!seen_.dtype) return stop_at("has no dtype");
  if (!seen_.shape) return stop_at("has no shape");
  if (!seen_.offsets) return stop_at("has no data_offsets");
  return true;
}

bool HeaderEvents::end_metadata() {
  place_ = Place::kTop;
  std::sort(metadata_keys_.begin(), metadata_keys_.end());
  const auto twice = std::adjacent_find(metadata_keys_.begin(), metadata_keys_.end());
  if (twice != metadata_keys_.end()) {
    return stop(fmt::format("its {} holds '{}' twice", kMetadata, printable(*twice)));
  }
  return true;
}

bool HeaderEvents::key(std::string& name) {
  if (place_ == Place::kFields) return field(name);
  if (place_ == Place::kMetadataFields) {
    metadata_keys_.push_back(std::move(name));
    return true;
  }
  if (name == kMetadata) {
    place_ = Place::kMetadata;
    return !std::exchange(has_metadata_, true) || stop(fmt::format("it holds {} twice", kMetadata));
  }
  place_ = Place::kTensor;
  tensors_.emplace_back();
  tensors_.back().entry.name = std::move(name);
  tensors_.back().entry.file = file_;
  return true;
}

bool HeaderEvents::field(std::string_view name) {
  bool* seen = nullptr;
  if (name == "dtype") {
    place_ = Place::kDType;
    seen = &seen_.dtype;
  } else if (name == "shape") {
    place_ = Place::kShape;
    seen = &seen_.shape;
  } else if (name == "data_offsets") {
    place_ = Place::kOffsets;
    seen = &seen_.offsets;
  } else {
    return stop_at(fmt::format("has a field '{}', which safetensors doesn't know", printable(name)));
  }
  return !std::exchange(*seen, true) || stop_at(fmt::format("has the field '{}' twice", name));
}

bool HeaderEvents::string(std::string& value) {
  if (place_ == Place::kMetadataFields) return true;
  if (place_ != Place::kDType) return unexpected("a string");
  CatalogEntry& entry = tensors_.back().entry;
  const std::optional<DType> dtype = parse_dtype(value);
  entry.dtype_known = dtype.has_value();
  entry.dtype = dtype.value_or(DType{});
  entry.dtype_name = std::move(value);
  place_ = Place::kFields;
  return true;
}

bool HeaderEvents::start_array(size_t) {
  if (place_ == Place::kShape) {
    place_ = Place::kDims;
    return true;
  }
  if (place_ == Place::kOffsets) {
    place_ = Place::kOffsetValues;
    num_offsets_ = 0;
    return true;
  }
  return unexpected("a list");
}

bool HeaderEvents::end_array() {
  const bool complete = place_ == Place::kDims || num_offsets_ == 2;
  place_ = Place::kFields;
  return complete || stop_at("has fewer than two data_offsets");
}

bool HeaderEvents::number_unsigned(uint64_t value) {
  if (place_ == Place::kDims) {
    std::vector<int64_t>& shape = tensors_.back().entry.shape;
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return stop_at(fmt::format("has a dimension of {}, which overflows", value));
    }
    if (shape.size() == kMostDimensions) {
      return stop_at(fmt::format("has more than {} dimensions", kMostDimensions));
    }
    shape.push_back(static_cast<int64_t>(value));
    return true;
  }
  if (place_ == Place::kOffsetValues) {
    if (num_offsets_ == 2) return stop_at("has more than two data_offsets");
    (num_offsets_ == 0 ? tensors_.back().begin : tensors_.back().end) = value;
    ++num_offsets_;
    return true;
  }
  return unexpected(std::to_string(value));
}

// The parser gives only negative numbers this way.
bool HeaderEvents::number_integer(int64_t value) {
  if (place_ == Place::kDims) return stop_at(fmt::format("has a negative dimension, {}", value));
  if (place_ == Place::kOffsetValues) return stop_at(fmt::format("has a negative offset, {}", value));
  return unexpected(std::to_string(value));
}

// Which Python's writer makes of no metadata.
bool HeaderEvents::null() {
  if (place_ != Place::kMetadata) return unexpected("null");
  place_ = Place::kTop;
  return true;
}

bool HeaderEvents::stop_at(std::string_view fault) {
  stopped_at_ = tensors_.back().entry.name;
  return stop(fmt::format("its entry '{}' {}", printable(stopped_at_), fault));
}

bool HeaderEvents::unexpected(std::string_view value) {
  const std::string shown = printable(value);
  switch (place_) {
    case Place::kOutside:
    case Place::kTop:
      return stop("it is not a JSON object of tensors");
    case Place::kMetadata:
      return stop(fmt::format("its {} is {}, not an object of strings", kMetadata, shown));
    case Place::kMetadataFields:
      return stop(fmt::format("its {} holds {}, not only strings", kMetadata, shown));
    case Place::kTensor:
      return stop_at(fmt::format("is {}, not an object", shown));
    case Place::kDType:
      return stop_at(fmt::format("has {} for its dtype, not a string", shown));
    case Place::kShape:
      return stop_at(fmt::format("has {} for its shape, not a list", shown));
    case Place::kOffsets:
      return stop_at(fmt::format("has {} for its data_offsets, not a list", shown));
    case Place::kDims:
      return stop_at(fmt::format("has {} among its dimensions, which are whole numbers below 2^63", shown));
    case Place::kOffsetValues:
      return stop_at(fmt::format("has {} among its data_offsets, which are whole numbers below 2^64", shown));
    case Place::kFields:
      break;
  }
  return stop_at(fmt::format("holds {}", shown));
}

}  // namespace fulgur
