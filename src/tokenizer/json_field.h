#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/json.h"

namespace fulgur {

/// A token id, if the value is one: 0 to 2^24 - 1, far above any vocabulary, because ids index tables.
std::optional<int32_t> as_token_id(const Json& value);
/// "an integer from 0 to 16777215"
std::string described_ids();

/// A value of a JSON file that knows where it stands, for messages. Every access throws `bad_tokenizer` if
/// the value is missing or of another type.
class JsonField {
 public:
  JsonField(const Json& value, std::string path, const std::string& file)
      : value_(&value), path_(std::move(path)), file_(&file) {}

  [[nodiscard]] JsonField at(const std::string& key) const;
  /// None if it is absent or null.
  [[nodiscard]] std::optional<JsonField> find(const std::string& key) const;
  /// Refuses keys that aren't listed, as `unsupported`.
  void allow_only(std::initializer_list<std::string_view> keys) const;

  [[nodiscard]] bool boolean() const;
  [[nodiscard]] const std::string& text() const;
  [[nodiscard]] bool is_text() const;
  [[nodiscard]] bool is_zero() const;
  [[nodiscard]] int32_t id() const;  // a token id
  [[nodiscard]] std::vector<JsonField> elements() const;
  [[nodiscard]] const Json& array() const;
  [[nodiscard]] const Json& object() const;

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] const std::string& file() const { return *file_; }

  /// `what` continues the sentence that begins with the field's path.
  [[noreturn]] void bad(std::string_view what, std::string expected) const;
  [[noreturn]] void unsupported(std::string expected) const;

 private:
  const Json* value_;
  std::string path_;
  const std::string* file_;
};

}  // namespace fulgur
