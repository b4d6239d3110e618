#include <fmt/format.h>

#include <cstring>

#include "checkpoint/safetensors_header.h"
#include "checkpoint/shard_index.h"
#include "defects.h"

namespace fulgur {
namespace {

using Checkpoint = GoldenCheckpoint;
using Result = std::optional<Expected>;
using Folder = TemporaryFolder;

constexpr auto kHeader = ErrorKind::kBadHeader;
constexpr auto kTruncated = ErrorKind::kTruncatedFile;
constexpr auto kIndex = ErrorKind::kBadIndex;
constexpr auto kIo = ErrorKind::kIoError;
constexpr auto kConfig = ErrorKind::kBadConfig;
constexpr auto kUnsupported = ErrorKind::kUnsupported;

/// A file as it is written, changed: the first shard where `file` is empty.
Defect bytes(const char* name, ErrorKind kind, const std::function<std::string(std::string)>& change,
             std::string file = {}) {
  return {name, [=](Checkpoint& c) -> Result {
            const std::string changed = file.empty() ? c.files().front() : file;
            c.afterwards([=](const Folder& folder) {
              const std::string before = read_bytes(folder / changed);
              std::filesystem::remove(folder / changed);
              write_bytes(folder / changed, change(before));
            });
            return refused(kind, std::string(), {changed});
          }};
}

/// Something else in a file's place: the first shard where `file` is empty.
Defect replaced(const char* name, ErrorKind kind,
                const std::function<void(const std::filesystem::path&)>& place, std::string file = {}) {
  return {name, [=](Checkpoint& c) -> Result {
            const std::string changed = file.empty() ? c.files().front() : file;
            if (file == kIndexFile) c.divide();
            c.afterwards([=](const Folder& folder) {
              std::filesystem::remove(folder / changed);
              place(folder / changed);
            });
            return refused(kind, std::string(), {changed});
          }};
}

void put_folder(const std::filesystem::path& path) { std::filesystem::create_directory(path); }
void put_loop(const std::filesystem::path& path) { std::filesystem::create_symlink(path.filename(), path); }
void put_two_links(const std::filesystem::path& path) {
  std::filesystem::create_symlink("other", path);
  std::filesystem::create_symlink(path.filename(), path.parent_path() / "other");
}
void put_nothing(const std::filesystem::path& /*path*/) {}

std::string with_length(std::string bytes, uint64_t length) {
  std::memcpy(bytes.data(), &length, sizeof length);
  return bytes;
}

/// The header entry of a tensor as good_safetensors() writes it: where it begins, and its text.
std::string entry_of(const std::string& header, const std::string& tensor) {
  const size_t begin = header.find('"' + tensor + "\":{");
  return header.substr(begin, header.find('}', begin) + 1 - begin);
}

void replace(std::string& text, const std::string& what, const std::string& with) {
  text.replace(text.find(what), what.size(), with);
}

std::string range_text(uint64_t begin, uint64_t end) {
  return fmt::format("\"data_offsets\":[{},{}]", begin, end);
}

/// The first shard's entry of its second tensor, changed; "tensor" and its byte range are given.
Defect entry(const char* name, ErrorKind kind,
             const std::function<void(std::string& entry, uint64_t begin, uint64_t end)>& change) {
  return {name, [=](Checkpoint& c) -> Result {
            const std::string file = c.files().front();
            std::vector<std::string> tensors = c.all("**");
            std::erase_if(tensors, [&](const std::string& tensor) { return c.file_of(tensor) != file; });
            const std::string tensor = tensors[1];
            c.edit_header(file, [=](std::string& header) {
              const std::string before = entry_of(header, tensor);
              const std::string offsets = before.substr(before.rfind('[') + 1);
              const uint64_t begin = std::stoull(offsets);
              const uint64_t end = std::stoull(offsets.substr(offsets.find(',') + 1));
              std::string after = before;
              change(after, begin, end);
              replace(header, before, after);
            });
            return refused(kind, tensor, {file, tensor});
          }};
}

void set_shape(std::string& entry, const char* shape) {
  const size_t begin = entry.find("\"shape\":[") + 8;
  entry.replace(begin, entry.find(']', begin) + 1 - begin, shape);
}

/// The product of an entry's dimensions.
uint64_t elements_of(const std::string& entry) {
  uint64_t product = 1;
  for (size_t at = entry.find("\"shape\":[") + 9; entry[at - 1] != ']';
       at = entry.find_first_of(",]", at) + 1)
    product *= std::stoull(entry.substr(at));
  return product;
}

/// Two dimensions below 2^63 whose product is `count` modulo 2^64, and above it in truth.
std::string wrapping(uint64_t count) {
  for (uint64_t odd = 3;; odd += 2) {
    uint64_t inverse = odd;  // modulo 2^3, and each step doubles the exponent
    for (int step = 0; step < 5; ++step) inverse *= 2 - odd * inverse;
    const uint64_t other = count * inverse;
    if (other > count && other >> 63 == 0) return fmt::format("[{},{}]", odd, other);
  }
}

/// config.json with one field changed.
Defect field(const char* name, ErrorKind kind, const char* field, std::optional<std::string> json) {
  return {name, [=](Checkpoint& c) -> Result {
            c.set(field, json);
            return refused(kind, std::string(field), {"config.json", field, json.value_or("")});
          }};
}

/// Of checkpoints that declare a quantization.
Defect quantization(const char* name, ErrorKind kind, const char* subfield, const char* json) {
  return {name, [=](Checkpoint& c) -> Result {
            if (c.name().find("fp8") == std::string::npos) return std::nullopt;
            const std::string field = std::string("quantization_config.") + subfield;
            c.set(field, json);
            return refused(kind, field, {"config.json", field});
          }};
}

Result listed(Checkpoint& c, const char* file) {
  c.divide();
  const std::string tensor = *c.first("model.norm.weight");
  c.freeze_index();
  c.list(tensor, file);
  return refused(kIndex, tensor, {kIndexFile, tensor, file});
}

Result tensor_in_two_shards(Checkpoint& c) {
  c.divide();
  const std::string file = c.files().front();
  std::vector<std::string> tensors = c.all("**");
  std::erase_if(tensors, [&](const std::string& tensor) { return c.file_of(tensor) != file; });
  const std::string tensor = tensors.front();
  c.freeze_index();
  c.add_like(tensor, tensor);
  return refused(kIndex, tensor, {tensor, file, c.files().back()});
}

Result stale_index(Checkpoint& c, bool moved) {
  c.divide();
  const std::string tensor = *c.first("model.norm.weight");
  const std::string other = c.file_of(tensor) == c.files().front() ? c.files().back() : c.files().front();
  c.freeze_index();
  if (moved) {
    c.list(tensor, other);
    return refused(kIndex, tensor, {tensor, other, c.file_of(tensor)});
  }
  c.erase(tensor);
  return refused(kIndex, tensor, {tensor});
}

/// Left over from a download that was broken off, or written for fewer shards.
Result shard_unlisted(Checkpoint& c) {
  c.divide();
  const std::string file = c.files().back();
  c.freeze_index();
  c.unlist(file);
  return refused(kIndex, std::string(), {file, kIndexFile, "doesn't list this shard", "the model needs"});
}

Result shard_missing(Checkpoint& c, bool indexed) {
  c.divide();
  if (!indexed) c.remove_index();
  const std::string gone = c.files().back();
  c.afterwards([=](const Folder& folder) { std::filesystem::remove(folder / gone); });
  return refused(kIndex, std::string(), {indexed ? gone : c.files().front()});
}

}  // namespace

std::vector<Defect> file_defects() {
  const auto cut_to = [](size_t length) {
    return [=](std::string bytes) { return bytes.substr(0, length); };
  };
  return {
      bytes("an empty shard", kTruncated, cut_to(0)),
      bytes("a shard of seven bytes", kTruncated, cut_to(7)),
      bytes("a shard of a length alone", kTruncated, cut_to(8)),
      bytes("a shard that ends in its header", kTruncated, cut_to(100)),
      bytes("a header length past the file", kTruncated,
            [](std::string bytes) {
              const uint64_t size = bytes.size();
              return with_length(std::move(bytes), size);
            }),
      bytes("a header length above the cap", kHeader,
            [](std::string bytes) { return with_length(std::move(bytes), kMostHeaderBytes + 1); }),
      bytes("a header length of all ones", kHeader,
            [](std::string bytes) { return with_length(std::move(bytes), ~uint64_t{0}); }),
      bytes("a header length of 0", kHeader,
            [](std::string bytes) { return with_length(std::move(bytes), 0); }),
      bytes("a byte left over", kHeader, [](const std::string& bytes) { return bytes + '\0'; }),
      bytes("a web page for a shard", kHeader,
            [](const std::string& bytes) { return raw_safetensors("<html>404</html>", bytes); }),
      entry("a tensor twice", kHeader, [](std::string& entry, uint64_t, uint64_t) { entry += "," + entry; }),
      entry("dimensions whose product overflows", kHeader,
            [](std::string& entry, uint64_t, uint64_t) { set_shape(entry, "[4611686018427387905,4]"); }),
      entry("a product of dimensions that wraps to the right size", kHeader,
            [](std::string& entry, uint64_t, uint64_t) {
              set_shape(entry, wrapping(elements_of(entry)).c_str());
            }),
      entry("a dimension past 63 bits", kHeader,
            [](std::string& entry, uint64_t, uint64_t) { set_shape(entry, "[9223372036854775808]"); }),
      entry("a dimension below 0", kHeader,
            [](std::string& entry, uint64_t, uint64_t) { set_shape(entry, "[-1]"); }),
      entry("a byte range of another size", kHeader,
            [](std::string& entry, uint64_t, uint64_t) { set_shape(entry, "[3,1,1]"); }),
      entry("a byte range backwards", kHeader,
            [](std::string& entry, uint64_t begin, uint64_t end) {
              replace(entry, range_text(begin, end), range_text(end, begin));
            }),
      entry("a field that the format does not have", kHeader,
            [](std::string& entry, uint64_t, uint64_t) { entry.insert(entry.size() - 1, ",\"x\":1"); }),
      entry("a shape that is a number", kHeader,
            [](std::string& entry, uint64_t, uint64_t) { set_shape(entry, "4"); }),
      entry("no shape", kHeader,
            [](std::string& entry, uint64_t, uint64_t) { replace(entry, "\"shape\"", "\"__shape__\""); }),
      {"an index that leaves out a shard", shard_unlisted},
      {"a listed shard that is not there", [](Checkpoint& c) { return shard_missing(c, true); }},
      {"a shard of a set that is not there", [](Checkpoint& c) { return shard_missing(c, false); }},
      {"a shard name that leaves the folder",
       [](Checkpoint& c) { return listed(c, "../model.safetensors"); }},
      {"a shard name from the root", [](Checkpoint& c) { return listed(c, "/etc/passwd"); }},
      {"a shard name that is the folder above", [](Checkpoint& c) { return listed(c, ".."); }},
      {"a tensor in two shards", tensor_in_two_shards},
      {"an index that lists what is gone", [](Checkpoint& c) { return stale_index(c, false); }},
      {"an index that lists what has moved", [](Checkpoint& c) { return stale_index(c, true); }},
      replaced(
          "an index that is cut", kIndex,
          [](const std::filesystem::path& path) { write_bytes(path, "{\"weight_map\": {"); }, kIndexFile),
      replaced(
          "an empty index", kIndex, [](const std::filesystem::path& path) { write_bytes(path, ""); },
          kIndexFile),
      replaced("an index that is a folder", kIo, put_folder, kIndexFile),
      replaced("an index that links to itself", kIo, put_loop, kIndexFile),
      replaced("a shard that is a folder", kIo, put_folder),
      replaced("a shard that links to itself", kIo, put_loop),
      replaced("a shard whose links lead in a circle", kIo, put_two_links),
      replaced("a config that is a folder", kIo, put_folder, "config.json"),
      replaced("a config that links to itself", kIo, put_loop, "config.json"),
      replaced("no config", kIo, put_nothing, "config.json"),
      replaced(
          "an empty config", kConfig, [](const std::filesystem::path& path) { write_bytes(path, ""); },
          "config.json"),
      replaced("a quantization file that is a folder", kIo, put_folder, "hf_quant_config.json"),
      replaced("a quantization file that links to itself", kIo, put_loop, "hf_quant_config.json"),
      replaced("a generation config that links to itself", kIo, put_loop, "generation_config.json"),
      field("no model_type", kConfig, "model_type", std::nullopt),
      field("another model", kUnsupported, "model_type", "\"llama\""),
      field("another scoring of experts", kUnsupported, "scoring_func", "\"softmax\""),
      field("another choice of experts", kUnsupported, "topk_method", "\"greedy\""),
      field("another activation", kUnsupported, "hidden_act", "\"gelu\""),
      field("two layers of prediction", kUnsupported, "num_nextn_predict_layers", "2"),
      field("no hidden_size", kConfig, "hidden_size", std::nullopt),
      field("a hidden_size of 0", kConfig, "hidden_size", "0"),
      field("a vocabulary that is text", kConfig, "vocab_size", "\"192\""),
      quantization("another method of quantization", kUnsupported, "quant_method", "\"awq\""),
      quantization("blocks of another size", kUnsupported, "weight_block_size", "[64,64]"),
      quantization("blocks of no size", kConfig, "weight_block_size", "[128,0]"),
  };
}

}  // namespace fulgur
