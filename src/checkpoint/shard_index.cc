#include "checkpoint/shard_index.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string_view>

#include "base/list_folder.h"
#include "base/mapped_file.h"
#include "base/printable.h"
#include "checkpoint/json_events.h"
#include "checkpoint/safetensors_header.h"

namespace fulgur {
namespace {

constexpr std::string_view kSingleFile = "model.safetensors";
constexpr std::string_view kIndexForm = R"(a JSON object {"weight_map": {"tensor": "file", ...}})";

/// Something wrong with the index itself.
Problem bad_index(std::string tensor, std::string message, std::string expected, std::string found) {
  return {.kind = ErrorKind::kBadIndex,
          .file = kIndexFile,
          .tensor = std::move(tensor),
          .message = std::move(message),
          .expected = std::move(expected),
          .found = std::move(found),
          .todo = fmt::format("fetch {} again, or write it anew for these shards", kIndexFile)};
}

/// Something wrong with shards that no index lists.
Problem bad_set(std::string file, std::string message, std::string expected, std::string found,
                std::string todo) {
  return {.kind = ErrorKind::kBadIndex,
          .file = std::move(file),
          .message = std::move(message),
          .expected = std::move(expected),
          .found = std::move(found),
          .todo = std::move(todo)};
}

/// In the folder, and fit to be shown on a terminal.
bool is_plain_name(std::string_view name) {
  const auto is_plain = [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return c != '/' && c != '\\' && byte >= ' ' && byte != 0x7f;
  };
  return !name.empty() && name != "." && name != ".." && std::all_of(name.begin(), name.end(), is_plain);
}

/// {"metadata": anything, "weight_map": {name: file}}
class IndexEvents final : public JsonEvents {
 public:
  explicit IndexEvents(std::vector<Problem>& problems) : problems_(problems) {}

  [[nodiscard]] bool has_weight_map() const { return has_weight_map_; }
  /// {tensor, number of its file}; -1 where that is no plain name.
  [[nodiscard]] std::vector<std::pair<std::string, int>> take() { return std::move(weight_map_); }
  /// The files by name, numbered as they came.
  [[nodiscard]] const std::map<std::string, int>& files() const { return files_; }

  bool start_object(size_t) override {
    if (skipped_depth_ > 0 || place_ == Place::kSkip) {
      ++skipped_depth_;
    } else if (place_ == Place::kOutside) {
      place_ = Place::kTop;
    } else if (place_ == Place::kWeightMap) {
      place_ = Place::kNames;
    } else {
      ++skipped_depth_;
      return unexpected("an object");
    }
    return true;
  }
  bool start_array(size_t) override {
    ++skipped_depth_;
    return skipped_depth_ > 1 || place_ == Place::kSkip || unexpected("a list");
  }
  bool end_object() override {
    if (skipped_depth_ > 0) return end_skipped();
    place_ = place_ == Place::kNames ? Place::kTop : Place::kOutside;
    return true;
  }
  bool end_array() override { return end_skipped(); }

  bool key(std::string& name) override {
    if (skipped_depth_ > 0) return true;
    if (place_ == Place::kNames) {
      weight_map_.emplace_back(std::move(name), -1);
      return true;
    }
    if (!top_keys_.insert(name).second) return stop(fmt::format("it holds '{}' twice", printable(name)));
    has_weight_map_ = has_weight_map_ || name == "weight_map";
    place_ = name == "weight_map" ? Place::kWeightMap : Place::kSkip;
    return true;
  }

  bool string(std::string& value) override {
    if (place_ != Place::kNames || skipped_depth_ > 0) return scalar("a string");
    auto& [tensor, file] = weight_map_.back();
    if (!is_plain_name(value)) {
      problems_.push_back(bad_index(
          tensor,
          fmt::format(
              "The index places '{}' in '{}', which is not a plain file name in the checkpoint's folder.",
              printable(tensor), printable(value)),
          "a name without /, \\ or control characters in it, as model-00001-of-00002.safetensors",
          fmt::format("'{}'", printable(value))));
      return few_problems();
    }
    file = number_of(value);
    return true;
  }
  bool null() override { return scalar("null"); }
  bool boolean(bool) override { return scalar("a boolean"); }
  bool number_integer(int64_t value) override { return scalar(std::to_string(value)); }
  bool number_unsigned(uint64_t value) override { return scalar(std::to_string(value)); }
  bool number_float(double, const std::string& text) override { return scalar(text); }

 private:
  static constexpr size_t kMostProblems = 1000;
  enum class Place { kOutside, kTop, kSkip, kWeightMap, kNames };

  /// One tensor after the other lies in the same file.
  int number_of(const std::string& file) {
    if (last_ == files_.end() || last_->first != file)
      last_ = files_.try_emplace(file, static_cast<int>(files_.size())).first;
    return last_->second;
  }

  bool end_skipped() {
    if (--skipped_depth_ == 0 && place_ == Place::kSkip) place_ = Place::kTop;
    return true;
  }
  bool scalar(std::string_view value) {
    if (skipped_depth_ > 0) return true;
    if (place_ != Place::kSkip) return unexpected(value);
    place_ = Place::kTop;
    return true;
  }
  bool unexpected(std::string_view value) override {
    const std::string shown = printable(value);
    if (place_ == Place::kWeightMap) return stop(fmt::format("its weight_map is {}, not an object", shown));
    if (place_ != Place::kNames) return stop("it is not a JSON object");
    const std::string& tensor = weight_map_.back().first;
    problems_.push_back(bad_index(
        tensor, fmt::format("The index places '{}' in {}, not in a file.", printable(tensor), shown),
        "the name of a file, as model-00001-of-00002.safetensors", shown));
    return few_problems();
  }
  bool few_problems() {
    return problems_.size() < kMostProblems || stop("it has more faults than are worth listing");
  }

  std::vector<Problem>& problems_;
  Place place_ = Place::kOutside;
  int64_t skipped_depth_ = 0;
  bool has_weight_map_ = false;
  std::set<std::string> top_keys_;
  std::vector<std::pair<std::string, int>> weight_map_;
  std::map<std::string, int> files_;
  std::map<std::string, int>::const_iterator last_ = files_.end();
};

ShardList read_index(const std::filesystem::path& path, std::vector<Problem>& problems) {
  ShardList list{.source = kIndexFile};
  const auto mapped = MappedFile::open(path);
  if (mapped->bytes().size() > kMostHeaderBytes) {
    problems.push_back(bad_index({},
                                 fmt::format("The index has {} bytes, more than the {} that are read of one.",
                                             mapped->bytes().size(), kMostHeaderBytes),
                                 fmt::format("at most {} bytes", kMostHeaderBytes),
                                 fmt::format("{} bytes", mapped->bytes().size())));
    return list;
  }
  IndexEvents events(problems);
  const std::string reason = events.parse(mapped->bytes());
  mapped->throw_if_damaged();
  if (!reason.empty()) {
    problems.push_back(bad_index({}, fmt::format("The index can't be read: {}.", reason),
                                 std::string(kIndexForm), beginning_of(mapped->bytes())));
    return list;
  }
  auto weight_map = events.take();
  if (weight_map.empty()) {
    problems.push_back(bad_index(
        {},
        events.has_weight_map() ? "The index's weight_map lists no tensor." : "The index has no weight_map.",
        std::string(kIndexForm), beginning_of(mapped->bytes())));
  }
  if (events.files().size() > kMostShards) {
    problems.push_back(bad_index(
        {},
        fmt::format("The index lists {} files, more than the {} that a checkpoint may have.",
                    events.files().size(), kMostShards),
        fmt::format("at most {} files", kMostShards), fmt::format("{} files", events.files().size())));
    return list;
  }
  std::vector<int> sorted(events.files().size());  // number in list.files, by number as they came
  for (const auto& [file, number] : events.files()) {
    sorted[static_cast<size_t>(number)] = static_cast<int>(list.files.size());
    list.files.push_back(file);
  }
  for (auto& [tensor, file] : weight_map) {
    if (file >= 0) file = sorted[static_cast<size_t>(file)];
  }
  std::sort(weight_map.begin(), weight_map.end());
  list.listed.reserve(weight_map.size());
  for (auto& [tensor, file] : weight_map) {
    if (!list.listed.empty() && list.listed.back().first == tensor) {
      problems.push_back(bad_index(
          tensor, fmt::format("The index lists '{}' twice.", printable(tensor)), "each name once",
          fmt::format("in '{}' and in '{}'", list.files[static_cast<size_t>(list.listed.back().second)],
                      list.files[static_cast<size_t>(file)])));
    } else if (file >= 0) {
      list.listed.emplace_back(std::move(tensor), file);
    }
  }
  return list;
}

/// 3 and 9 of "model-00003-of-00009.safetensors".
struct SetNumber {
  uint64_t number = 0;
  uint64_t of = 0;
};

std::optional<SetNumber> set_number(std::string_view name) {
  constexpr std::string_view kPrefix = "model-";
  constexpr std::string_view kMiddle = "-of-";
  constexpr std::string_view kSuffix = ".safetensors";
  if (!name.starts_with(kPrefix) || !name.ends_with(kSuffix)) return std::nullopt;
  const size_t middle = name.find(kMiddle, kPrefix.size());
  if (middle == std::string_view::npos) return std::nullopt;
  const auto number_in = [&](size_t begin, size_t end, uint64_t& value) {
    const auto [stop, error] = std::from_chars(name.data() + begin, name.data() + end, value);
    return error == std::errc() && stop == name.data() + end;
  };
  SetNumber result;
  if (!number_in(kPrefix.size(), middle, result.number)) return std::nullopt;
  if (!number_in(middle + kMiddle.size(), name.size() - kSuffix.size(), result.of)) return std::nullopt;
  return result;
}

/// Each of 1..of exactly once, and all of one set.
void check_set(const std::map<std::string, SetNumber>& set, std::vector<Problem>& problems) {
  const auto& [first_name, first] = *set.begin();
  std::map<uint64_t, std::string> by_number;
  for (const auto& [name, at] : set) {
    if (at.of != first.of) {
      problems.push_back(
          bad_set(name,
                  fmt::format("There is no index, and {} and {} belong to different sets of shards.",
                              first_name, name),
                  fmt::format("{} files model-*-of-*.safetensors of one set", first.of),
                  fmt::format("sets of {} and of {} files", first.of, at.of),
                  "move the shards of the other set elsewhere, or fetch the index"));
      return;
    }
    const auto [place, is_new] = by_number.emplace(at.number, name);
    if (!is_new || at.number == 0 || at.number > at.of) {
      problems.push_back(
          bad_set(name,
                  fmt::format("There is no index, and {} has no place of its own in a set of {} shards.",
                              name, at.of),
                  fmt::format("each number from 1 to {} once", at.of),
                  is_new ? std::to_string(at.number) : fmt::format("{}, as {}", at.number, place->second),
                  "move the file elsewhere, or fetch the index"));
      return;
    }
  }
  if (by_number.size() == first.of) return;
  uint64_t missing = 1;
  while (by_number.contains(missing)) ++missing;
  problems.push_back(bad_set(
      first_name,
      fmt::format("There is no index, and the set of shards is incomplete: number {} of {} is not there.",
                  missing, first.of),
      fmt::format("{} files model-*-of-*.safetensors", first.of), std::to_string(by_number.size()),
      "fetch the missing shards, or the index"));
}

/// What a folder holds by the names of files alone.
struct NamedFiles {
  bool single = false;                   // model.safetensors
  std::map<std::string, SetNumber> set;  // model-*-of-*.safetensors
};
NamedFiles named_files(const std::filesystem::path& folder) {
  NamedFiles files;
  for (const std::filesystem::path& path : list_folder(folder)) {
    const std::string name = path.filename().string();
    files.single = files.single || name == kSingleFile;
    if (const auto number = set_number(name)) files.set.emplace(name, *number);
  }
  return files;
}

/// In place of an index that can't be read: the files that it will have listed, if that is beyond doubt.
std::vector<std::string> likely_files(const std::filesystem::path& folder) try {
  const auto [single, set] = named_files(folder);
  if (single != set.empty()) return {};
  if (single) return {std::string(kSingleFile)};
  std::vector<Problem> doubts;
  check_set(set, doubts);
  std::vector<std::string> files;
  for (const auto& [name, number] : set) files.push_back(name);
  return doubts.empty() ? files : std::vector<std::string>();
} catch (const Error&) {
  return {};  // the index is what is told, and a folder may well keep its list to itself
}

/// `listed` is sorted.
std::vector<std::string> unlisted_files(const std::filesystem::path& folder,
                                        const std::vector<std::string>& listed) try {
  auto [single, set] = named_files(folder);
  if (single) set.emplace(kSingleFile, SetNumber{});
  std::vector<std::string> files;
  for (const auto& [name, number] : set) {
    if (!std::binary_search(listed.begin(), listed.end(), name)) files.push_back(name);
  }
  return files;
} catch (const Error&) {
  return {};  // nothing depends on them
}

ShardList shards_by_name(const std::filesystem::path& folder, std::vector<Problem>& problems) {
  const auto [single, set] = named_files(folder);
  if (single && !set.empty()) {
    problems.push_back(
        bad_set(std::string(kSingleFile),
                fmt::format("There is no index, and {} stands beside {}: which is the checkpoint?",
                            kSingleFile, set.begin()->first),
                fmt::format("either {} or shards model-*-of-*.safetensors", kSingleFile),
                fmt::format("both: {} and {}", kSingleFile, set.begin()->first),
                "move what is not the checkpoint elsewhere, or fetch the index"));
    return {};
  }
  if (single) return {.source = std::string(kSingleFile), .files = {std::string(kSingleFile)}};
  if (set.empty()) {
    problems.push_back(
        {.kind = ErrorKind::kIoError,
         .file = folder.string(),
         .message = "The folder holds no checkpoint.",
         .expected = fmt::format("{}, or {} and its shards, or shards model-*-of-*.safetensors", kSingleFile,
                                 kIndexFile),
         .found = "none of them",
         .todo = "name the folder that holds the model's files"});
    return {};
  }
  const size_t before = problems.size();
  check_set(set, problems);
  ShardList list{.source = fmt::format("model-*-of-{}.safetensors", set.begin()->second.of)};
  for (const auto& [name, number] : set) list.files.push_back(name);
  list.complete = problems.size() == before;
  return list;
}

}  // namespace

ShardList list_shards(const std::filesystem::path& folder, std::vector<Problem>& problems) {
  std::error_code error;
  const auto index = std::filesystem::symlink_status(folder / kIndexFile, error);
  if (!std::filesystem::exists(index)) return shards_by_name(folder, problems);
  ShardList list{.source = kIndexFile};
  try {
    list = read_index(folder / kIndexFile, problems);
  } catch (const Error& unreadable) {
    problems.insert(problems.end(), unreadable.problems().begin(), unreadable.problems().end());
  }
  if (list.files.empty()) {
    list.files = likely_files(folder);
    list.complete = false;
  } else {
    list.unlisted = unlisted_files(folder, list.files);
  }
  return list;
}

}  // namespace fulgur
