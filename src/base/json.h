#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/error.h"

namespace fulgur {

using Json = nlohmann::json;

/// Parses one whole JSON document, strictly: UTF-8, no key twice in an object, nothing after the value, at
/// most 100 levels deep and 64 MiB long, numbers within a double's range. Anything else is an Error with one
/// Problem of `kind` that names `file`, line and column.
Json parse_json(std::string_view text, ErrorKind kind, const std::string& file);

/// The same from a file of at most 64 MiB; io_error if it can't be read. Messages name its last path
/// component.
Json read_json(const std::filesystem::path& path, ErrorKind kind);

/// A value as JSON text in plain ASCII, cut to some 60 characters, for messages.
std::string brief(const Json& value);

}  // namespace fulgur
