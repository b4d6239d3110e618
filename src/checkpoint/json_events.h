#pragma once

#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>

namespace fulgur {

/// Headers and indexes are read as a stream of events: no tree is built, so their size bounds the memory they
/// take, and duplicate keys are seen. A reader overrides what it expects; everything else stops the parse
/// with a reason.
class JsonEvents : public nlohmann::json::json_sax_t {
 public:
  /// Feeds the whole of `text` to the reader. Empty: it was read to its end; else why not, as a clause ("it
  /// is not ...").
  [[nodiscard]] std::string parse(std::span<const std::byte> text);

  bool null() override { return unexpected("null"); }
  bool boolean(bool) override { return unexpected("a boolean"); }
  bool number_integer(int64_t value) override { return unexpected(std::to_string(value)); }
  bool number_unsigned(uint64_t value) override { return unexpected(std::to_string(value)); }
  bool number_float(double, const std::string& text) override { return unexpected(text); }
  bool string(std::string&) override { return unexpected("a string"); }
  bool binary(nlohmann::json::binary_t&) override { return unexpected("binary data"); }
  bool start_object(size_t) override { return unexpected("an object"); }
  bool start_array(size_t) override { return unexpected("a list"); }
  bool end_object() override = 0;
  bool key(std::string& name) override = 0;
  bool end_array() override { return true; }
  bool parse_error(size_t position, const std::string& token,
                   const nlohmann::json::exception& error) override;

 protected:
  /// Ends the parse; `reason` is the clause that parse() returns.
  bool stop(std::string reason);
  /// Ends the parse at a value of the wrong type.
  virtual bool unexpected(std::string_view value) = 0;

 private:
  std::string reason_;
};

/// How a text that is not what it should be begins: "1234 bytes that begin with '<html>'".
std::string beginning_of(std::span<const std::byte> text);

}  // namespace fulgur
