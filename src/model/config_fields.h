#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/json.h"

namespace fulgur {

struct IntegerRange {
  int64_t least = 0;
  int64_t most = 0;
};

struct NumberRange {
  double least = 0;
  double most = 0;
  bool above = false;  // `least` itself is not allowed
};

/// The fields of one JSON object, each checked for presence, type and range as it is read. What is wrong
/// becomes a Problem that names the field, its value and what is allowed; the reader returns the fallback (or
/// zero) and goes on, so that all problems are reported together.
class ConfigFields {
 public:
  /// `prefix` stands before field names in messages ("rope_scaling.").
  ConfigFields(const Json& object, std::string file, std::vector<Problem>& problems, std::string prefix = "");

  /// Present and not null.
  [[nodiscard]] bool has(std::string_view field) const;
  [[nodiscard]] const Json& value(std::string_view field) const { return object_.at(field); }
  [[nodiscard]] const std::string& file() const { return file_; }
  [[nodiscard]] std::vector<Problem>& problems() const { return problems_; }
  /// Every field that was looked for, whether it was there or not.
  [[nodiscard]] const std::set<std::string, std::less<>>& looked_for() const { return looked_for_; }

  int64_t integer(std::string_view field, IntegerRange range);  // required
  int64_t integer(std::string_view field, IntegerRange range, int64_t fallback);
  std::optional<int64_t> nullable_integer(std::string_view field, IntegerRange range);
  double number(std::string_view field, NumberRange range);  // required
  double number(std::string_view field, NumberRange range, double fallback);
  std::optional<double> nullable_number(std::string_view field, NumberRange range);
  bool flag(std::string_view field, bool fallback);
  /// A string that is one of `allowed`; another string is a problem of `kind`, anything else bad_config.
  std::string choice(std::string_view field, std::initializer_list<std::string_view> allowed, ErrorKind kind,
                     std::string_view fallback);
  /// A list of strings, or null. The entries are not looked at.
  std::optional<std::vector<std::string>> nullable_strings(std::string_view field);
  /// An integer or a list of integers, or null: all of them, each once.
  std::vector<int64_t> nullable_integers(std::string_view field, IntegerRange range);

  /// None of the fields was refused, so that a rule over them means something.
  [[nodiscard]] bool good(std::initializer_list<std::string_view> fields) const;
  /// The field's value is not what is allowed ("an even number").
  void refuse(std::string_view field, const std::string& allowed, ErrorKind kind = ErrorKind::kBadConfig);
  void refuse_missing(std::string_view field, const std::string& allowed);
  /// Any other problem with a field, in its own sentence.
  void refuse(std::string_view field, ErrorKind kind, std::string message, std::string expected,
              std::string found);

 private:
  [[nodiscard]] bool absent(std::string_view field) const;

  const Json& object_;
  std::string file_;
  std::vector<Problem>& problems_;
  std::string prefix_;
  std::set<std::string, std::less<>> refused_;
  mutable std::set<std::string, std::less<>> looked_for_;
};

/// "an integer from 1 to 1000".
std::string describe(IntegerRange range);
std::string describe(NumberRange range);

}  // namespace fulgur
