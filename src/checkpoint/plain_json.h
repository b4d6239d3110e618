#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

namespace fulgur {

/// Reads JSON as published headers and indexes have it: objects and lists, strings of printable ASCII without
/// escapes, integers of at most 19 digits. Such text is read several times faster than any JSON could be; the
/// events are those of nlohmann's SAX interface.
template <typename Events>
class PlainJson {
 public:
  PlainJson(std::string_view text, Events& events)
      : at_(text.data()), end_(text.data() + text.size()), events_(events) {}

  /// False where the text is something else, or an event said so: reading ended there.
  bool read() {
    for (;;) {
      if (!value()) return false;
      while (depth_ > 0 && next() != ',') {
        if (!close()) return false;
      }
      if (depth_ == 0) return next() == '\0' && at_ == end_;
      ++at_;
      if (open_[depth_ - 1] == '{' && !key()) return false;
    }
  }

 private:
  static constexpr size_t kMostDepth = 16;
  static constexpr size_t kMostDigits = 19;  // of which any number fits 64 bits
  static constexpr size_t kUnknown = static_cast<size_t>(-1);

  /// The first character that isn't white space; 0 at the end (and where the text has one).
  char next() {
    while (at_ != end_ && (*at_ == ' ' || *at_ == '\n' || *at_ == '\r' || *at_ == '\t')) ++at_;
    return at_ == end_ ? '\0' : *at_;
  }

  /// Up to the first that is no object or list with something in it.
  bool value() {
    for (;;) {
      const char first = next();
      if (first == '"') return string() && events_.string(token_);
      if (first >= '0' && first <= '9') return number();
      if ((first != '{' && first != '[') || depth_ == kMostDepth) return false;
      ++at_;
      open_[depth_++] = first;
      if (!(first == '{' ? events_.start_object(kUnknown) : events_.start_array(kUnknown))) return false;
      if (next() == (first == '{' ? '}' : ']')) return close();
      if (first == '{' && !key()) return false;
    }
  }

  bool close() {
    const char open = open_[depth_ - 1];
    if (next() != (open == '{' ? '}' : ']')) return false;
    ++at_;
    --depth_;
    return open == '{' ? events_.end_object() : events_.end_array();
  }

  bool key() {
    if (next() != '"' || !string() || !events_.key(token_) || next() != ':') return false;
    ++at_;
    return true;
  }

  bool string() {
    const char* begin = ++at_;
    while (end_ - at_ >= static_cast<ptrdiff_t>(sizeof(uint64_t)) && all_plain(at_)) at_ += sizeof(uint64_t);
    while (at_ != end_ && *at_ >= ' ' && *at_ <= '~' && *at_ != '"' && *at_ != '\\') ++at_;
    if (at_ == end_ || *at_ != '"') return false;
    token_.assign(begin, at_++);
    return true;
  }

  /// Whether the next eight characters are of those that strings hold as they are. Of each byte the top bit
  /// is looked at: a - 1 & ~a has it where a is 0, and nowhere if no byte is.
  static bool all_plain(const char* at) {
    constexpr uint64_t kOnes = 0x0101010101010101;
    constexpr uint64_t kTops = 0x80 * kOnes;
    uint64_t eight = 0;
    std::memcpy(&eight, at, sizeof eight);
    const auto holds = [&](uint64_t character) {
      const uint64_t others = eight ^ (character * kOnes);
      return (others - kOnes) & ~others;
    };
    const uint64_t controls = (eight - uint64_t{' '} * kOnes) & ~eight;
    return ((eight | controls | holds('"') | holds('\\') | holds(0x7f)) & kTops) == 0;
  }

  bool number() {
    const char* begin = at_;
    uint64_t number = 0;
    for (; at_ != end_ && *at_ >= '0' && *at_ <= '9'; ++at_) {
      if (static_cast<size_t>(at_ - begin) == kMostDigits) return false;
      number = number * 10 + static_cast<uint64_t>(*at_ - '0');
    }
    if (*begin == '0' && at_ - begin > 1) return false;
    if (at_ != end_ && (*at_ == '.' || *at_ == 'e' || *at_ == 'E')) return false;
    return events_.number_unsigned(number);
  }

  const char* at_;
  const char* end_;
  Events& events_;
  std::array<char, kMostDepth> open_{};
  size_t depth_ = 0;
  std::string token_;
};

/// Whether text is such, to its end.
inline bool is_plain_json(std::string_view text) {
  struct Nothing {
    static bool start_object(size_t) { return true; }
    static bool end_object() { return true; }
    static bool start_array(size_t) { return true; }
    static bool end_array() { return true; }
    static bool key(const std::string&) { return true; }
    static bool string(const std::string&) { return true; }
    static bool number_unsigned(uint64_t) { return true; }
  } nothing;
  return PlainJson(text, nothing).read();
}

}  // namespace fulgur
