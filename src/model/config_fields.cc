#include "model/config_fields.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace fulgur {
namespace {

bool in_range(const Json& value, IntegerRange range) {
  if (!value.is_number_integer()) return false;
  if (value.is_number_unsigned()) {
    const auto number = value.get<uint64_t>();
    if (number > static_cast<uint64_t>(INT64_MAX)) return false;
  }
  const auto number = value.get<int64_t>();
  return number >= range.least && number <= range.most;
}

bool in_range(const Json& value, NumberRange range) {
  if (!value.is_number()) return false;
  const auto number = value.get<double>();
  return (range.above ? number > range.least : number >= range.least) && number <= range.most;
}

}  // namespace

std::string describe(IntegerRange range) {
  return fmt::format("an integer from {} to {}", range.least, range.most);
}

std::string describe(NumberRange range) {
  return range.above ? fmt::format("a number above {} and at most {}", range.least, range.most)
                     : fmt::format("a number from {} to {}", range.least, range.most);
}

ConfigFields::ConfigFields(const Json& object, std::string file, std::vector<Problem>& problems,
                           std::string prefix)
    : object_(object), file_(std::move(file)), problems_(problems), prefix_(std::move(prefix)) {}

bool ConfigFields::absent(std::string_view field) const {
  looked_for_.emplace(field);
  return !object_.contains(field);
}

bool ConfigFields::has(std::string_view field) const { return !absent(field) && !value(field).is_null(); }

int64_t ConfigFields::integer(std::string_view field, IntegerRange range) {
  if (absent(field)) {
    refuse_missing(field, describe(range));
    return 0;
  }
  return integer(field, range, 0);
}

int64_t ConfigFields::integer(std::string_view field, IntegerRange range, int64_t fallback) {
  if (absent(field)) return fallback;
  if (in_range(value(field), range)) return value(field).get<int64_t>();
  refuse(field, describe(range));
  return fallback;
}

std::optional<int64_t> ConfigFields::nullable_integer(std::string_view field, IntegerRange range) {
  if (!has(field)) return std::nullopt;
  if (in_range(value(field), range)) return value(field).get<int64_t>();
  refuse(field, describe(range) + ", or null");
  return std::nullopt;
}

double ConfigFields::number(std::string_view field, NumberRange range) {
  if (absent(field)) {
    refuse_missing(field, describe(range));
    return 0;
  }
  return number(field, range, 0);
}

double ConfigFields::number(std::string_view field, NumberRange range, double fallback) {
  if (absent(field)) return fallback;
  if (in_range(value(field), range)) return value(field).get<double>();
  refuse(field, describe(range));
  return fallback;
}

std::optional<double> ConfigFields::nullable_number(std::string_view field, NumberRange range) {
  if (!has(field)) return std::nullopt;
  if (in_range(value(field), range)) return value(field).get<double>();
  refuse(field, describe(range) + ", or null");
  return std::nullopt;
}

bool ConfigFields::flag(std::string_view field, bool fallback) {
  if (absent(field)) return fallback;
  if (value(field).is_boolean()) return value(field).get<bool>();
  refuse(field, "true or false");
  return fallback;
}

std::string ConfigFields::choice(std::string_view field, std::initializer_list<std::string_view> allowed,
                                 ErrorKind kind, std::string_view fallback) {
  if (absent(field)) return std::string(fallback);
  const std::string list = fmt::format("\"{}\"", fmt::join(allowed, "\" or \""));
  if (!value(field).is_string()) {
    refuse(field, list);
    return std::string(fallback);
  }
  auto text = value(field).get<std::string>();
  if (std::find(allowed.begin(), allowed.end(), text) == allowed.end()) {
    refuse(field, list, kind);
    return std::string(fallback);
  }
  return text;
}

std::optional<std::vector<std::string>> ConfigFields::nullable_strings(std::string_view field) {
  if (!has(field)) return std::nullopt;
  const Json& list = value(field);
  if (!list.is_array() ||
      !std::all_of(list.begin(), list.end(), [](const Json& entry) { return entry.is_string(); })) {
    refuse(field, "a list of strings, or null");
    return std::nullopt;
  }
  return list.get<std::vector<std::string>>();
}

std::vector<int64_t> ConfigFields::nullable_integers(std::string_view field, IntegerRange range) {
  std::vector<int64_t> integers;
  if (!has(field)) return integers;
  std::set<int64_t> seen;
  const auto take = [&](const Json& entry) {
    if (!in_range(entry, range)) return false;
    if (seen.insert(entry.get<int64_t>()).second) integers.push_back(entry.get<int64_t>());
    return true;
  };
  const Json& given = value(field);
  const bool all_good = given.is_array() ? std::all_of(given.begin(), given.end(), take) : take(given);
  if (!all_good) refuse(field, describe(range) + ", a list of such, or null");
  return integers;
}

bool ConfigFields::good(std::initializer_list<std::string_view> fields) const {
  return std::none_of(fields.begin(), fields.end(),
                      [&](std::string_view field) { return refused_.contains(field); });
}

void ConfigFields::refuse(std::string_view field, const std::string& allowed, ErrorKind kind) {
  const std::string found = brief(value(field));
  refuse(field, kind, fmt::format("{}{} must be {}, not {}.", prefix_, field, allowed, found), allowed,
         found);
}

void ConfigFields::refuse_missing(std::string_view field, const std::string& allowed) {
  refuse(field, ErrorKind::kBadConfig, fmt::format("{}{} is missing.", prefix_, field), allowed,
         "no such field");
}

void ConfigFields::refuse(std::string_view field, ErrorKind kind, std::string message, std::string expected,
                          std::string found) {
  refused_.emplace(field);
  std::string todo =
      kind == ErrorKind::kUnsupported
          ? fmt::format("choose a release of this model whose {}{} Fulgur runs", prefix_, field)
          : fmt::format("correct the field, or use the {} that belongs to this checkpoint", file_);
  problems_.push_back({.kind = kind,
                       .file = file_,
                       .tensor = prefix_ + std::string(field),
                       .message = std::move(message),
                       .expected = std::move(expected),
                       .found = std::move(found),
                       .todo = std::move(todo)});
}

}  // namespace fulgur
