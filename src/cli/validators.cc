#include "cli/validators.h"

#include <fmt/format.h>

#include <charconv>
#include <cstdint>
#include <string>

#include "tokenizer/utf8.h"

namespace fulgur::cli {

CLI::Validator finite_number() {
  return {[](const std::string& given) {
            const bool finite = given.find_first_of("nN") == std::string::npos;  // "nan", "inf"
            return finite ? "" : given + " is not a finite number";
          },
          ""};
}

CLI::Validator seed() {
  return {[](const std::string& given) {
            uint64_t value = 0;
            const char* end = given.data() + given.size();
            const auto [rest, error] = std::from_chars(given.data(), end, value);
            const bool whole = error == std::errc() && rest == end;
            return whole ? "" : given + " is not an integer from 0 to 18446744073709551615";
          },
          ""};
}

CLI::Validator text() {
  return {[](const std::string& given) -> std::string {
            if (given.empty()) return "the text can't be empty";
            const size_t at = find_invalid_utf8(given);
            return at == std::string::npos ? "" : fmt::format("the text is not valid UTF-8 at byte {}", at);
          },
          ""};
}

}  // namespace fulgur::cli
