#include "checkpoint/safetensors_header.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <span>
#include <utility>

#include "base/printable.h"
#include "checkpoint/header_events.h"
#include "checkpoint/json_events.h"

namespace fulgur {
namespace {

constexpr uint64_t kLengthBytes = 8;
constexpr size_t kMostProblemsOfAFile =
    1000;  // of a file that is damaged all over, the rest says nothing new

/// What a file's header says wrong, gathered.
class Complaints {
 public:
  Complaints(std::string file, std::vector<Problem>& problems)
      : file_(std::move(file)), problems_(problems) {}

  void add(ErrorKind kind, std::string tensor, std::string message, std::string expected, std::string found,
           std::string todo) {
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
  void bad_header(std::string tensor, std::string message, std::string expected, std::string found) {
    add(ErrorKind::kBadHeader, std::move(tensor), std::move(message), std::move(expected), std::move(found),
        "fetch the file again, or write it anew with the safetensors library");
  }
  [[nodiscard]] bool too_many() const { return count_ >= kMostProblemsOfAFile; }

 private:
  std::string file_;
  std::vector<Problem>& problems_;
  size_t count_ = 0;
};

std::string shown(const DescribedTensor& tensor) { return printable(tensor.entry.name); }

/// "BF16 [2, 3] at 0..12"
std::string described(const DescribedTensor& tensor) {
  return fmt::format("{} {} at {}..{}", printable(tensor.entry.dtype_name), shape_text(tensor.entry.shape),
                     tensor.begin, tensor.end);
}

/// As the safetensors library multiplies: the dimensions in their order, a 0 stays 0 whatever follows it, but
/// an overflow before it is one.
std::optional<uint64_t> shape_bytes(const CatalogEntry& entry) {
  uint64_t product = 1;
  for (const int64_t dim : entry.shape) {
    if (__builtin_mul_overflow(product, static_cast<uint64_t>(dim), &product)) return std::nullopt;
  }
  if (__builtin_mul_overflow(product, size_bytes(entry.dtype), &product)) return std::nullopt;
  return product;
}

/// Whether the byte range is ordered; where its size is known, that it is the shape's.
bool check_size(const DescribedTensor& tensor, Complaints& complaints) {
  const CatalogEntry& entry = tensor.entry;
  if (tensor.begin > tensor.end) {
    complaints.bad_header(entry.name,
                          fmt::format("'{}' begins at offset {}, behind its end at {}.", shown(tensor),
                                      tensor.begin, tensor.end),
                          "data_offsets [begin, end] with begin <= end",
                          fmt::format("[{}, {}]", tensor.begin, tensor.end));
    return false;
  }
  if (!entry.dtype_known) return true;  // an error only where the model needs it
  const std::optional<uint64_t> bytes = shape_bytes(entry);
  if (!bytes) {
    complaints.bad_header(entry.name,
                          fmt::format("'{}' has the shape {}, whose size overflows 64 bits.", shown(tensor),
                                      shape_text(entry.shape)),
                          fmt::format("a {} shape of {} bytes", entry.dtype_name, tensor.end - tensor.begin),
                          described(tensor));
  } else if (*bytes != tensor.end - tensor.begin) {
    complaints.bad_header(
        entry.name,
        fmt::format("'{}' has a byte range of another size than its shape and dtype.", shown(tensor)),
        fmt::format("{} bytes for {} {}", *bytes, entry.dtype_name, shape_text(entry.shape)),
        fmt::format("{} bytes, at {}..{}", tensor.end - tensor.begin, tensor.begin, tensor.end));
  }
  return true;
}

bool check_sizes(const std::vector<DescribedTensor>& tensors, Complaints& complaints) {
  bool all_ordered = true;
  for (const DescribedTensor& tensor : tensors) {
    if (!complaints.too_many()) all_ordered = check_size(tensor, complaints) && all_ordered;
  }
  return all_ordered;
}

/// Whether every name is there once.
bool check_names(const std::vector<DescribedTensor>& sorted, Complaints& complaints) {
  bool unique = true;
  for (size_t i = 1; i < sorted.size() && !complaints.too_many(); ++i) {
    if (sorted[i].entry.name != sorted[i - 1].entry.name) continue;
    unique = false;
    complaints.bad_header(
        sorted[i].entry.name, fmt::format("The header holds the tensor '{}' twice.", shown(sorted[i])),
        "each name once", fmt::format("{}, and {}", described(sorted[i - 1]), described(sorted[i])));
  }
  return unique;
}

/// The byte ranges cover the data, one behind the other.
void check_layout(const std::vector<DescribedTensor>& tensors, uint64_t data_start, uint64_t data_bytes,
                  Complaints& complaints) {
  std::vector<const DescribedTensor*> by_begin;
  by_begin.reserve(tensors.size());
  for (const DescribedTensor& tensor : tensors) by_begin.push_back(&tensor);
  std::sort(by_begin.begin(), by_begin.end(), [](const DescribedTensor* a, const DescribedTensor* b) {
    return std::pair(a->begin, a->end) < std::pair(b->begin, b->end);
  });

  uint64_t covered = 0;
  const DescribedTensor* last = nullptr;
  for (const DescribedTensor* tensor : by_begin) {
    if (complaints.too_many()) return;
    if (tensor->begin < covered) {
      complaints.bad_header(
          tensor->entry.name,
          fmt::format("'{}' and '{}' overlap: one begins at offset {}, the other ends at {}.", shown(*tensor),
                      shown(*last), tensor->begin, last->end),
          fmt::format("'{}' at offset {}", shown(*tensor), covered),
          fmt::format("'{}' is {}; '{}' is {}", shown(*last), described(*last), shown(*tensor),
                      described(*tensor)));
    } else if (tensor->begin > covered) {
      complaints.bad_header(
          tensor->entry.name,
          fmt::format("There is a hole in the data before '{}': offsets {} to {} belong to no tensor.",
                      shown(*tensor), covered, tensor->begin),
          fmt::format("'{}' at offset {}", shown(*tensor), covered), described(*tensor));
    }
    if (last == nullptr || tensor->end >= covered) last = tensor;
    covered = std::max(covered, tensor->end);
  }
  const uint64_t file_bytes = data_start + data_bytes;
  if (covered > data_bytes) {
    uint64_t needed = 0;
    const bool overflows = __builtin_add_overflow(data_start, covered, &needed);
    complaints.truncated(last->entry.name, fmt::format("'{}' ends past the end of the file.", shown(*last)),
                         overflows ? "more than 2^64" : std::to_string(needed), file_bytes);
  } else if (covered < data_bytes) {
    complaints.bad_header(
        {},
        fmt::format("{} bytes are left over at the end of the file, behind the last tensor.",
                    data_bytes - covered),
        fmt::format("a file of {} bytes", data_start + covered), fmt::format("{} bytes", file_bytes));
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
        {},
        fmt::format("The header is said to have {} bytes, more than the {} that a safetensors file may have: "
                    "it is damaged, or no such file.",
                    length, kMostHeaderBytes),
        fmt::format("a header length of at most {} in the first {} bytes", kMostHeaderBytes, kLengthBytes),
        std::to_string(length));
    return {};
  }
  if (length > bytes.size() - kLengthBytes) {
    complaints.truncated({}, "The file ends inside its header.", std::to_string(kLengthBytes + length),
                         bytes.size());
    return {};
  }

  HeaderEvents events(file);
  const std::string reason = events.parse(bytes.subspan(kLengthBytes, length));
  if (!reason.empty()) {
    complaints.bad_header(
        events.stopped_at(), fmt::format("The header can't be read: {}.", reason),
        R"(a JSON object of entries "name": {"dtype": "...", "shape": [...], "data_offsets": [begin, end]})",
        beginning_of(bytes.subspan(kLengthBytes, length)));
    return {};
  }
  std::vector<DescribedTensor> tensors = events.take();
  std::sort(tensors.begin(), tensors.end(),
            [](const DescribedTensor& a, const DescribedTensor& b) { return a.entry.name < b.entry.name; });
  const uint64_t data_start = kLengthBytes + length;
  const bool unique = check_names(tensors, complaints);
  const bool ordered = check_sizes(tensors, complaints);
  if (unique && ordered) check_layout(tensors, data_start, bytes.size() - data_start, complaints);
  if (complaints.too_many()) return {};  // which tensors could be believed is anyone's guess

  std::vector<CatalogEntry> entries;
  entries.reserve(tensors.size());
  for (DescribedTensor& tensor : tensors) {
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
