#include "base/json.h"

#include <algorithm>
#include <set>
#include <system_error>
#include <utility>
#include <vector>

#include "base/text_file.h"

namespace fulgur {
namespace {

constexpr int kMostLevels = 100;
constexpr uintmax_t kMostBytes = uintmax_t{64} << 20;

Error refusal(ErrorKind kind, const std::string& file, std::string message, std::string expected,
              std::string found) {
  return Error(Problem{.kind = kind,
                       .file = file,
                       .message = std::move(message),
                       .expected = std::move(expected),
                       .found = std::move(found),
                       .todo = "correct it, or fetch the file again"});
}

/// "line 3, column 7" of the `byte`th byte, counted from 1; of a single line, which may be one of a larger
/// file, the column alone.
std::string place(std::string_view text, size_t byte) {
  const std::string_view before = text.substr(0, byte == 0 ? 0 : byte - 1);
  const auto line = 1 + std::count(before.begin(), before.end(), '\n');
  const size_t line_start = before.rfind('\n') + 1;  // npos + 1 is 0
  const std::string column = "column " + std::to_string(before.size() - line_start + 1);
  return text.find('\n') == std::string_view::npos ? column : "line " + std::to_string(line) + ", " + column;
}

/// What the parser says was wrong, without its prefix and the text it quotes, which may be long or not UTF-8.
std::string reason(const nlohmann::json::exception& error) {
  std::string_view what = error.what();
  for (const std::string_view prefix : {"] ", "column ", ": "}) {
    const size_t at = what.find(prefix);
    if (at != std::string_view::npos) what.remove_prefix(at + prefix.size());
  }
  return std::string(what.substr(0, what.find("; last read")));
}

}  // namespace

Json parse_json(std::string_view text, ErrorKind kind, const std::string& file) {
  if (text.empty()) throw refusal(kind, file, "The file is empty.", "a JSON document", "nothing");
  if (text.size() > kMostBytes) {
    throw refusal(kind, file, "The JSON is larger than 64 MiB.",
                  "at most " + std::to_string(kMostBytes) + " bytes", std::to_string(text.size()) + " bytes");
  }
  // The parser takes a NUL for the end of its input; in a file it only hides what follows.
  if (const size_t nul = text.find('\0'); nul != std::string_view::npos) {
    throw refusal(kind, file, "Not valid JSON at " + place(text, nul + 1) + ": a NUL byte.",
                  "a JSON document in UTF-8", "a NUL byte");
  }
  std::vector<std::set<std::string>> keys_of_open_objects;
  const auto watch = [&](int depth, Json::parse_event_t event, Json& parsed) {
    switch (event) {
      case Json::parse_event_t::object_start:
        keys_of_open_objects.emplace_back();
        [[fallthrough]];
      case Json::parse_event_t::array_start:
        if (depth >= kMostLevels) {
          throw refusal(kind, file,
                        "The JSON is nested more than " + std::to_string(kMostLevels) + " levels deep.",
                        "at most " + std::to_string(kMostLevels) + " levels", "more");
        }
        break;
      case Json::parse_event_t::object_end:
        keys_of_open_objects.pop_back();
        break;
      case Json::parse_event_t::key:
        if (!keys_of_open_objects.back().insert(parsed.get<std::string>()).second) {
          throw refusal(kind, file, "The key " + brief(parsed) + " stands twice in one object.",
                        "each key once", brief(parsed) + " twice");
        }
        break;
      default:
        break;
    }
    return true;
  };
  try {
    return Json::parse(text, watch);
  } catch (const Json::parse_error& error) {
    throw refusal(kind, file, "Not valid JSON at " + place(text, error.byte) + ": " + reason(error) + ".",
                  "a JSON document in UTF-8", reason(error));
  } catch (const Json::out_of_range&) {  // the only cause while parsing
    throw refusal(kind, file, "A number in it is too large for a double.", "numbers below 1.8e308",
                  "a larger one");
  }
}

Json read_json(const std::filesystem::path& path, ErrorKind kind) {
  const auto unreadable = [&](const std::string& why) {
    return Error(Problem{.kind = ErrorKind::kIoError,
                         .file = path.string(),
                         .message = "The file can't be read: " + why + ".",
                         .expected = "a readable file of at most 64 MiB",
                         .found = why,
                         .todo = "check the path and its permissions"});
  };
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (status.type() == std::filesystem::file_type::not_found) throw unreadable("it does not exist");
  if (error) throw unreadable(error.message());
  if (!std::filesystem::is_regular_file(status)) throw unreadable("it is not a regular file");
  const uintmax_t size = std::filesystem::file_size(path, error);
  if (error) throw unreadable(error.message());
  if (size > kMostBytes) throw unreadable("it is larger than 64 MiB");
  return parse_json(read_text_file(path), kind, path.filename().string());
}

std::string brief(const Json& value) {
  constexpr size_t kMost = 60;
  std::string text = value.dump(-1, ' ', /*ensure_ascii=*/true, Json::error_handler_t::replace);
  if (text.size() > kMost) text = text.substr(0, kMost) + "...";
  return text;
}

}  // namespace fulgur
