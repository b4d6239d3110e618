#include "tokenizer/json_field.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/printable.h"

namespace fulgur {
namespace {

constexpr uint64_t kHighestId = (1 << 24) - 1;

std::string advice(const std::string& file) {
  return fmt::format("fetch {} again, or use the one that belongs to this checkpoint", file);
}

}  // namespace

std::string described_ids() { return fmt::format("an integer from 0 to {}", kHighestId); }

std::optional<int32_t> as_token_id(const Json& value) {
  if (!value.is_number_unsigned() || value.get<uint64_t>() > kHighestId) return std::nullopt;
  return value.get<int32_t>();
}

JsonField JsonField::at(const std::string& key) const {
  const auto it = object().find(key);
  std::string path = path_.empty() ? printable(key) : path_ + "." + printable(key);
  if (it == value_->end()) {
    throw Error(Problem{.kind = ErrorKind::kBadTokenizer,
                        .file = *file_,
                        .tensor = path,
                        .message = path + " is missing.",
                        .expected = path,
                        .found = "no such field",
                        .todo = advice(*file_)});
  }
  return {*it, std::move(path), *file_};
}

std::optional<JsonField> JsonField::find(const std::string& key) const {
  const auto it = object().find(key);
  if (it == value_->end() || it->is_null()) return std::nullopt;
  return at(key);
}

void JsonField::allow_only(std::initializer_list<std::string_view> keys) const {
  for (const auto& [key, value] : object().items()) {
    if (std::find(keys.begin(), keys.end(), key) == keys.end()) {
      at(key).unsupported(fmt::format("one of {}", fmt::join(keys, ", ")));
    }
  }
}

bool JsonField::boolean() const {
  if (!value_->is_boolean()) bad("is of the wrong type.", "true or false");
  return value_->get<bool>();
}

const std::string& JsonField::text() const {
  if (!value_->is_string()) bad("is of the wrong type.", "a string");
  return value_->get_ref<const std::string&>();
}

bool JsonField::is_text() const { return value_->is_string(); }

bool JsonField::is_zero() const {
  if (!value_->is_number()) bad("is of the wrong type.", "a number");
  return value_->get<double>() == 0;
}

int32_t JsonField::id() const {
  const std::optional<int32_t> id = as_token_id(*value_);
  if (!id) bad("is not a token id.", described_ids());
  return *id;
}

std::vector<JsonField> JsonField::elements() const {
  std::vector<JsonField> fields;
  fields.reserve(array().size());
  for (const Json& element : *value_) {
    fields.emplace_back(element, fmt::format("{}[{}]", path_, fields.size()), *file_);
  }
  return fields;
}

const Json& JsonField::array() const {
  if (!value_->is_array()) bad("is of the wrong type.", "an array");
  return *value_;
}

const Json& JsonField::object() const {
  if (!value_->is_object()) bad("is of the wrong type.", "an object");
  return *value_;
}

void JsonField::bad(std::string_view what, std::string expected) const {
  throw Error(Problem{.kind = ErrorKind::kBadTokenizer,
                      .file = *file_,
                      .tensor = path_,
                      .message = fmt::format("{} {}", path_.empty() ? "its top level" : path_, what),
                      .expected = std::move(expected),
                      .found = brief(*value_),
                      .todo = advice(*file_)});
}

void JsonField::unsupported(std::string expected) const {
  throw Error(Problem{
      .kind = ErrorKind::kUnsupported,
      .file = *file_,
      .tensor = path_,
      .message = fmt::format("{} is {}, which this tokenizer does not support.", path_, brief(*value_)),
      .expected = std::move(expected),
      .found = brief(*value_),
      .todo = advice(*file_)});
}

}  // namespace fulgur
