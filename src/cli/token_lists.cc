#include "cli/token_lists.h"

#include <fmt/format.h>

#include <charconv>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace fulgur::cli {
namespace {

[[noreturn]] void refuse(const std::string& name, const std::string& found) {
  throw Error(Problem{
      .kind = ErrorKind::kBadRequest,
      .file = name,
      .message = "This is not a list of token ids.",
      .expected =
          "integers from 0, as [1, 2, 3] or, in a file of several prompts, [[1, 2], [3]]; no empty list",
      .found = found,
      .todo = "make the ids with fulgur tokenize --json"});
}

std::vector<int32_t> ids_of(const nlohmann::json& array, const std::string& name) {
  if (array.empty()) refuse(name, "an empty list");
  std::vector<int32_t> ids;
  for (const nlohmann::json& value : array) {
    if (!value.is_number_integer()) refuse(name, value.dump().substr(0, 60));
    const bool in_range =
        value.is_number_unsigned() && value.get<uint64_t>() <= std::numeric_limits<int32_t>::max();
    if (!in_range) refuse(name, value.dump());
    ids.push_back(value.get<int32_t>());
  }
  return ids;
}

}  // namespace

std::vector<std::vector<int32_t>> parse_token_lists(std::string_view json, const std::string& name) {
  const nlohmann::json parsed = nlohmann::json::parse(json, nullptr, /*allow_exceptions=*/false);
  if (parsed.is_discarded()) refuse(name, "text that is not JSON");
  if (!parsed.is_array()) refuse(name, "a JSON value that is not an array");
  if (parsed.empty()) refuse(name, "an empty list");
  if (!parsed.front().is_array()) return {ids_of(parsed, name)};
  std::vector<std::vector<int32_t>> lists;
  for (const nlohmann::json& list : parsed) {
    if (!list.is_array()) refuse(name, "lists and single ids mixed");
    lists.push_back(ids_of(list, name));
  }
  return lists;
}

std::vector<int32_t> parse_id_list(std::string_view text, const std::string& name) {
  std::vector<int32_t> ids;
  const char* at = text.data();
  const char* end = at + text.size();
  while (true) {
    int32_t id = 0;
    const auto [next, error] = std::from_chars(at, end, id);
    if (error != std::errc() || id < 0 || (next != end && *next != ','))
      refuse(name, fmt::format("'{}'", text));
    ids.push_back(id);
    if (next == end) return ids;
    at = next + 1;
  }
}

}  // namespace fulgur::cli
