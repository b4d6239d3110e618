#include "checkpoint/safetensors_header.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <numeric>
#include <optional>
#include <span>
#include <utility>

#include "checkpoint/json_events.h"

namespace fulgur {
namespace {

constexpr uint64_t kLengthBytes = 8;
constexpr size_t kMostDimensions = 32;
constexpr size_t kMostProblemsOfAFile =
    1000;  // of a file that is damaged all over, the rest says nothing new
constexpr std::string_view kMetadata = "__metadata__";

/// What a file's header says wrong, gathered.
class Complaints {
 public:
  Complaints(std::string file, std::vector<Problem>& problems)
      : file_(std::move(file)), problems_(problems) {}

  void add(ErrorKind kind, std::string tensor, std::string message, std::string expected = {},
           std::string found = {}, std::string todo = {}) {
    ++count_;
    problems_.push_back({.kind = kind,
                         .file = file_,
                         .tensor = std::move(tensor),
                         .message = std::move(message),
                         .expected = std::move(expected),
                         .found = std::move(found),
                         .todo = std::move(todo)});
  }
  void truncated(std::string tensor, std::string message, std::string_view needed_bytes,
                 uint64_t present_bytes) {
    add(ErrorKind::kTruncatedFile, std::move(tensor), std::move(message),
        fmt::format("{} bytes", needed_bytes), fmt::format("{} bytes", present_bytes),
        "fetch the file again");
  }
  void bad_header(std::string tensor, std::string message) {
    add(ErrorKind::kBadHeader, std::move(tensor), std::move(message));
  }
  [[nodiscard]] bool too_many() const { return count_ >= kMostProblemsOfAFile; }

 private:
  std::string file_;
  std::vector<Problem>& problems_;
  size_t count_ = 0;
};

/// A tensor as its header entry gives it: offsets from the start of the data.
struct Described {
  CatalogEntry entry;
  uint64_t begin = 0;
  uint64_t end = 0;
};

/// name -> {dtype, shape, data_offsets}, in one pass.
class HeaderEvents final : public JsonEvents {
 public:
  HeaderEvents(int file, Complaints& complaints) : file_(file), complaints_(complaints) {}

  [[nodiscard]] std::vector<Described> take() { return std::move(tensors_); }
  /// The tensor whose entry ended the parse, if one did.
  [[nodiscard]] const std::string& stopped_at() const { return stopped_at_; }

  bool start_object(size_t) override {
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

  bool key(std::string& name) override {
    if (place_ == Place::kMetadataFields) {
      metadata_keys_.push_back(std::move(name));
      return true;
    }
    if (place_ == Place::kTop) {
      if (name == kMetadata) {
        ++num_metadata_;
        place_ = Place::kMetadata;
        return true;
      }
      place_ = Place::kTensor;
      tensors_.push_back({});
      tensors_.back().entry.name = std::move(name);
      tensors_.back().entry.file = file_;
      return true;
    }
    const std::optional<Place> field = field_of(name);
    if (!field)
      return stop_at(fmt::format("has a field '{}', which safetensors doesn't know", printable(name)));
    bool& seen = seen_of(*field);
    if (seen) return stop_at(fmt::format("has the field '{}' twice", name));
    seen = true;
    place_ = *field;
    return true;
  }

  bool string(std::string& value) override {
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

  bool start_array(size_t) override {
    if (place_ == Place::kShape) {
      place_ = Place::kDims;
    } else if (place_ == Place::kOffsets) {
      place_ = Place::kOffsetValues;
      num_offsets_ = 0;
    } else {
      return unexpected("a list");
    }
    return true;
  }

  bool number_unsigned(uint64_t value) override {
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

  bool number_integer(int64_t value) override {  // negative: the parser gives the others as unsigned
    if (place_ == Place::kDims) return stop_at(fmt::format("has a negative dimension, {}", value));
    if (place_ == Place::kOffsetValues) return stop_at(fmt::format("has a negative offset, {}", value));
    return unexpected(std::to_string(value));
  }

  bool end_array() override {
    if (place_ == Place::kOffsetValues && num_offsets_ != 2)
      return stop_at("has fewer than two data_offsets");
    place_ = Place::kFields;
    return true;
  }

  bool end_object() override {
    switch (place_) {
      case Place::kFields:
        place_ = Place::kTop;
        if (!seen_.dtype) return stop_at("has no dtype");
        if (!seen_.shape) return stop_at("has no shape");
        if (!seen_.offsets) return stop_at("has no data_offsets");
        check_size(tensors_.back());
        return !complaints_.too_many() || stop("it has more faults than are worth listing");
      case Place::kMetadataFields:
        place_ = Place::kTop;
        check_metadata_keys();
        return true;
      default:
        place_ = Place::kOutside;
        if (num_metadata_ > 1) {
          complaints_.bad_header(std::string(kMetadata),
                                 fmt::format("The header holds {} twice.", kMetadata));
        }
        return true;
    }
  }

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
    kMetadata,
    kMetadataFields,
  };
  struct Seen {
    bool dtype = false;
    bool shape = false;
    bool offsets = false;
  };

  static std::optional<Place> field_of(std::string_view name) {
    if (name == "dtype") return Place::kDType;
    if (name == "shape") return Place::kShape;
    if (name == "data_offsets") return Place::kOffsets;
    return std::nullopt;
  }
  bool& seen_of(Place field) {
    if (field == Place::kDType) return seen_.dtype;
    return field == Place::kShape ? seen_.shape : seen_.offsets;
  }

  /// Ends the parse at a fault of the tensor being read.
  bool stop_at(const std::string& fault) {
    stopped_at_ = tensors_.back().entry.name;
    return stop(fmt::format("its entry '{}' {}", printable(stopped_at_), fault));
  }

  bool unexpected(std::string_view value) override {
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
        return stop_at(
            fmt::format("has {} among its data_offsets, which are whole numbers below 2^64", shown));
      case Place::kFields:
        break;
    }
    return stop_at(fmt::format("holds {}", shown));
  }

  void check_size(const Described& tensor) {
    const CatalogEntry& entry = tensor.entry;
    const std::string shown = printable(entry.name);
    if (tensor.begin > tensor.end) {
      complaints_.bad_header(entry.name, fmt::format("'{}' begins at offset {}, behind its end at {}.", shown,
                                                     tensor.begin, tensor.end));
      return;
    }
    if (!entry.dtype_known) return;  // an error only where the model needs it
    uint64_t bytes = size_bytes(entry.dtype);
    for (const int64_t dim : entry.shape) {
      if (__builtin_mul_overflow(bytes, static_cast<uint64_t>(dim), &bytes)) {
        complaints_.bad_header(
            entry.name, fmt::format("'{}' has the shape {}, whose size in bytes overflows 64 bits.", shown,
                                    shape_text(entry.shape)));
        return;
      }
    }
    if (bytes != tensor.end - tensor.begin) {
      complaints_.add(
          ErrorKind::kBadHeader, entry.name,
          fmt::format("'{}' has a byte range of another size than its shape and dtype.", shown),
          fmt::format("{} bytes for {} {}", bytes, entry.dtype_name, shape_text(entry.shape)),
          fmt::format("{} bytes, at {}..{}", tensor.end - tensor.begin, tensor.begin, tensor.end));
    }
  }

  void check_metadata_keys() {
    std::sort(metadata_keys_.begin(), metadata_keys_.end());
    const auto twice = std::adjacent_find(metadata_keys_.begin(), metadata_keys_.end());
    if (twice != metadata_keys_.end()) {
      complaints_.bad_header(std::string(kMetadata),
                             fmt::format("The header's {} holds '{}' twice.", kMetadata, printable(*twice)));
    }
    metadata_keys_ = {};
  }

  const int file_;
  Complaints& complaints_;
  Place place_ = Place::kOutside;
  Seen seen_;
  int num_offsets_ = 0;
  int num_metadata_ = 0;
  std::vector<Described> tensors_;
  std::vector<std::string> metadata_keys_;
  std::string stopped_at_;
};

/// Whether every name is there once.
bool check_names(const std::vector<Described>& sorted, Complaints& complaints) {
  bool unique = true;
  for (size_t i = 1; i < sorted.size() && !complaints.too_many(); ++i) {
    if (sorted[i].entry.name != sorted[i - 1].entry.name) continue;
    unique = false;
    complaints.bad_header(sorted[i].entry.name, fmt::format("The header holds the tensor '{}' twice.",
                                                            printable(sorted[i].entry.name)));
  }
  return unique;
}

/// The byte ranges cover the data, one behind the other.
void check_layout(const std::vector<Described>& tensors, uint64_t data_start, uint64_t data_bytes,
                  Complaints& complaints) {
  std::vector<const Described*> by_begin;
  by_begin.reserve(tensors.size());
  for (const Described& tensor : tensors) by_begin.push_back(&tensor);
  std::sort(by_begin.begin(), by_begin.end(), [](const Described* a, const Described* b) {
    return std::pair(a->begin, a->end) < std::pair(b->begin, b->end);
  });
  const auto shown = [](const Described* tensor) { return printable(tensor->entry.name); };

  uint64_t covered = 0;
  const Described* last = nullptr;
  for (const Described* tensor : by_begin) {
    if (complaints.too_many()) return;
    if (tensor->begin < covered) {
      complaints.bad_header(
          tensor->entry.name,
          fmt::format("'{}' and '{}' overlap: one begins at offset {}, the other ends at {}.", shown(tensor),
                      shown(last), tensor->begin, last->end));
    } else if (tensor->begin > covered) {
      complaints.bad_header(
          tensor->entry.name,
          fmt::format("There is a hole in the data before '{}': offsets {} to {} belong to no tensor.",
                      shown(tensor), covered, tensor->begin));
    }
    if (last == nullptr || tensor->end >= covered) last = tensor;
    covered = std::max(covered, tensor->end);
  }
  const uint64_t file_bytes = data_start + data_bytes;
  if (covered > data_bytes) {
    uint64_t needed = 0;
    const bool overflows = __builtin_add_overflow(data_start, covered, &needed);
    complaints.truncated(last->entry.name, fmt::format("'{}' ends past the end of the file.", shown(last)),
                         overflows ? "more than 2^64" : std::to_string(needed), file_bytes);
  } else if (covered < data_bytes) {
    complaints.bad_header(
        {}, fmt::format("{} bytes are left over at the end of the file, behind the last tensor.",
                        data_bytes - covered));
  }
}

}  // namespace

std::vector<CatalogEntry> read_header(const MappedFile& mapped, int file, std::vector<Problem>& problems) {
  const std::span<const std::byte> bytes = mapped.bytes();
  Complaints complaints(mapped.file_name(), problems);
  if (bytes.size() < kLengthBytes) {
    complaints.truncated({}, "The file is too short to be a safetensors file.", std::to_string(kLengthBytes),
                         bytes.size());
    return {};
  }
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), kLengthBytes);
  if (length > kMostHeaderBytes) {
    complaints.bad_header(
        {}, fmt::format("The header is said to have {} bytes, more than the {} that a safetensors file "
                        "may have; is this one?",
                        length, kMostHeaderBytes));
    return {};
  }
  if (length > bytes.size() - kLengthBytes) {
    complaints.truncated({}, "The file ends inside its header.", std::to_string(kLengthBytes + length),
                         bytes.size());
    return {};
  }

  HeaderEvents events(file, complaints);
  const std::string reason = events.parse(bytes.subspan(kLengthBytes, length));
  if (!reason.empty()) {
    complaints.bad_header(events.stopped_at(), fmt::format("The header can't be read: {}.", reason));
    return {};
  }
  std::vector<Described> tensors = events.take();
  std::sort(tensors.begin(), tensors.end(),
            [](const Described& a, const Described& b) { return a.entry.name < b.entry.name; });
  const uint64_t data_start = kLengthBytes + length;
  const bool ranges_mean_something = check_names(tensors, complaints) &&
                                     std::all_of(tensors.begin(), tensors.end(), [](const Described& tensor) {
                                       return tensor.begin <= tensor.end;
                                     });
  if (ranges_mean_something) check_layout(tensors, data_start, bytes.size() - data_start, complaints);

  std::vector<CatalogEntry> entries;
  entries.reserve(tensors.size());
  for (Described& tensor : tensors) {
    tensor.entry.offset = data_start + tensor.begin;
    tensor.entry.bytes = tensor.end - tensor.begin;
    entries.push_back(std::move(tensor.entry));
  }
  return entries;
}

std::string shape_text(const std::vector<int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

}  // namespace fulgur
