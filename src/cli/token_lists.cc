#include "cli/token_lists.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <limits>

#include "base/error.h"

namespace fulgur::cli {
namespace {

constexpr const char* kOneList = "integers from 0, as [1, 2, 3]";
constexpr const char* kOneOrMoreLists =
    "integers from 0, as [1, 2, 3] or, for several prompts, [[1, 2], [3]]; no empty list";

[[noreturn]] void refuse(const std::string& name, const char* expected, const std::string& found) {
  throw Error(Problem{.kind = ErrorKind::kBadRequest,
                      .file = name,
                      .message = "This is not a list of token ids.",
                      .expected = expected,
                      .found = found,
                      .todo = "make the ids with fulgur tokenize --json"});
}

/// From `1,2,3`.
std::vector<int32_t> parse_plain(std::string_view text, const std::string& name) {
  std::vector<int32_t> ids;
  const char* at = text.data();
  const char* end = at + text.size();
  while (true) {
    int32_t id = 0;
    const auto [next, error] = std::from_chars(at, end, id);
    if (error != std::errc() || id < 0 || (next != end && *next != ','))
      refuse(name, "integers from 0, as 1,2,3", fmt::format("'{}'", text));
    ids.push_back(id);
    if (next == end) return ids;
    at = next + 1;
  }
}

}  // namespace

std::vector<int32_t> token_list(const Json& value, const std::string& name) {
  if (!value.is_array()) refuse(name, kOneList, brief(value));
  std::vector<int32_t> ids;
  for (const Json& id : value) {
    const bool in_range =
        id.is_number_unsigned() && id.get<uint64_t>() <= std::numeric_limits<int32_t>::max();
    if (!in_range) refuse(name, kOneList, brief(id));
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

std::vector<std::vector<int32_t>> parse_token_lists(std::string_view json, const std::string& name) {
  const Json parsed = parse_json(json, ErrorKind::kBadRequest, name);
  if (!parsed.is_array()) refuse(name, kOneOrMoreLists, brief(parsed));
  std::vector<std::vector<int32_t>> lists;
  if (!parsed.empty() && parsed.front().is_array()) {
    for (const Json& list : parsed) lists.push_back(token_list(list, name));
  } else {
    lists.push_back(token_list(parsed, name));
  }
  if (std::ranges::any_of(lists, &std::vector<int32_t>::empty))
    refuse(name, kOneOrMoreLists, "an empty list");
  return lists;
}

std::vector<int32_t> parse_ids(std::string_view text, const std::string& name) {
  constexpr std::string_view kSpace = " \t\r\n";
  const size_t begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos || text[begin] == '[') {
    return token_list(parse_json(text, ErrorKind::kBadRequest, name), name);
  }
  return parse_plain(text.substr(begin, text.find_last_not_of(kSpace) + 1 - begin), name);
}

}  // namespace fulgur::cli
