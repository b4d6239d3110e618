#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>

namespace fulgur {

/// What a reader of JSON is told, every event as a word. It stops the reading at the event that is one too
/// many.
class JsonWords : public nlohmann::json::json_sax_t {
 public:
  explicit JsonWords(size_t most = std::numeric_limits<size_t>::max()) : most_(most) {}

  [[nodiscard]] const std::string& text() const { return text_; }
  bool null() override { return add("null"); }
  bool boolean(bool value) override { return add(value ? "true" : "false"); }
  bool number_integer(int64_t value) override { return add("i" + std::to_string(value)); }
  bool number_unsigned(uint64_t value) override { return add("u" + std::to_string(value)); }
  bool number_float(double, const std::string& digits) override { return add("f" + digits); }
  bool string(std::string& value) override { return take("'", value); }
  bool binary(nlohmann::json::binary_t&) override { return add("binary"); }
  bool start_object(size_t size) override { return add("{" + std::to_string(size)); }
  bool start_array(size_t size) override { return add("[" + std::to_string(size)); }
  bool end_object() override { return add("}"); }
  bool end_array() override { return add("]"); }
  bool key(std::string& name) override { return take("#", name); }
  bool parse_error(size_t, const std::string&, const nlohmann::json::exception&) override { return false; }

 private:
  bool add(const std::string& word) {
    text_ += word + " ";
    return most_-- > 0;
  }
  /// A reader of events may keep a string, as the readers of headers do.
  bool take(const char* kind, std::string& value) {
    const std::string taken = std::move(value);
    return add(kind + taken);
  }

  size_t most_;
  std::string text_;
};

}  // namespace fulgur
