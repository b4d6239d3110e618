#include "tokenizer/split_regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/format.h>
#include <pcre2.h>

#include <iterator>

#include "base/error.h"

namespace fulgur {
namespace {

/// Steps of one match, beyond what a text of its length can need with a pattern that backtracks over each
/// piece of it a few times: PCRE2's default, and so many more a code point.
constexpr uint32_t kLeastMatchLimit = 10'000'000;
constexpr uint64_t kMatchLimitPerCodePoint = 100;

constexpr size_t kJitStackStart = 64U << 10;
constexpr size_t kJitStackMost = 64U << 20;

/// A class of bytes, spelled so that nothing in it means anything else.
std::string class_of(const std::vector<uint8_t>& kinds) {
  if (kinds.empty()) return "(?!)";
  std::string text = "[";
  for (size_t i = 0; i < kinds.size();) {
    size_t run = i;
    while (run + 1 < kinds.size() && kinds[run + 1] == kinds[run] + 1) ++run;
    fmt::format_to(std::back_inserter(text), "\\x{:02x}", kinds[i]);
    if (run > i) fmt::format_to(std::back_inserter(text), "-\\x{:02x}", kinds[run]);
    i = run + 1;
  }
  return text + "]";
}

std::string message_of(int error) {
  std::string text(256, '\0');
  const int length = pcre2_get_error_message(error, reinterpret_cast<PCRE2_UCHAR*>(text.data()), text.size());
  text.resize(length > 0 ? static_cast<size_t>(length) : 0);
  return text;
}

struct Free {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
  void operator()(pcre2_jit_stack* stack) const { pcre2_jit_stack_free(stack); }
};

/// What one thread needs to match with a compiled pattern.
class Matcher {
 public:
  Matcher(const pcre2_code* code, size_t num_code_points)
      : code_(code),
        data_(pcre2_match_data_create_from_pattern(code, nullptr)),
        context_(pcre2_match_context_create(nullptr)) {
    if (data_ == nullptr || context_ == nullptr) throw std::bad_alloc();
    const uint64_t limit = kLeastMatchLimit + kMatchLimitPerCodePoint * num_code_points;
    pcre2_set_match_limit(context_.get(), static_cast<uint32_t>(std::min<uint64_t>(limit, UINT32_MAX)));
  }

  /// The first match in `text` at or after `from`; false if there is none.
  bool find(std::string_view text, size_t from, Span& match) {
    int found = run(text, from);
    if (found == PCRE2_ERROR_JIT_STACKLIMIT && stack_ == nullptr) {
      // The 32 KiB on the machine's stack didn't do.
      stack_.reset(pcre2_jit_stack_create(kJitStackStart, kJitStackMost, nullptr));
      if (stack_ == nullptr) throw std::bad_alloc();
      pcre2_jit_stack_assign(context_.get(), nullptr, stack_.get());
      found = run(text, from);
    }
    if (found == PCRE2_ERROR_NOMATCH) return false;
    if (found < 0) {
      throw Error(
          ErrorKind::kBadRequest,
          fmt::format("the text can't be cut into words: the tokenizer's regex gave up after its limit of "
                      "steps ({})",
                      message_of(found)));
    }
    const size_t* const offsets = pcre2_get_ovector_pointer(data_.get());
    match = {offsets[0], offsets[1]};
    return true;
  }

 private:
  int run(std::string_view text, size_t from) {
    return pcre2_match(code_, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from, 0, data_.get(),
                       context_.get());
  }

  const pcre2_code* code_;
  std::unique_ptr<pcre2_match_data, Free> data_;
  std::unique_ptr<pcre2_match_context, Free> context_;
  std::unique_ptr<pcre2_jit_stack, Free> stack_;
};

}  // namespace

void SplitRegex::FreeCode::operator()(pcre2_real_code_8* code) const { pcre2_code_free(code); }

SplitRegex::SplitRegex(const SetPattern& pattern) : alphabet_(pattern.sets) {
  std::string text;
  for (const SetPattern::Part& part : pattern.parts) {
    text += part.set < 0 ? part.syntax : class_of(alphabet_.kinds_of_set(static_cast<size_t>(part.set)));
  }
  int error = 0;
  size_t offset = 0;
  code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(),
                            PCRE2_NEVER_UTF | PCRE2_NEVER_UCP, &error, &offset, nullptr));
  if (code_ == nullptr) {
    throw Error(ErrorKind::kUnsupported, fmt::format("the regex is refused by PCRE2: {}", message_of(error)));
  }
  // Where PCRE2 was built without its compiler, it interprets: slower, the same matches.
  pcre2_jit_compile(code_.get(), PCRE2_JIT_COMPLETE);
}

std::vector<Span> SplitRegex::split(std::u32string_view text, const std::vector<Span>& pieces) const {
  const std::string kinds = alphabet_.kinds(text);
  Matcher matcher(code_.get(), text.size());
  std::vector<Span> cut;
  cut.reserve(pieces.size());
  for (const Span& piece : pieces) {
    const std::string_view inside(kinds.data() + piece.begin, piece.end - piece.begin);
    const auto add = [&](size_t begin, size_t end) {
      if (begin < end) cut.push_back({piece.begin + begin, piece.begin + end});
    };
    size_t done = 0;
    bool matched = false;
    Span match;
    for (size_t from = 0; from <= inside.size() && matcher.find(inside, from, match);) {
      if (match.begin == match.end && matched && match.end == done) {
        ++from;  // an empty match just after a match is none
        continue;
      }
      add(done, match.begin);
      add(match.begin, match.end);
      from = done = match.end;
      matched = true;
    }
    add(done, inside.size());
  }
  return cut;
}

}  // namespace fulgur
