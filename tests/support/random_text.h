#pragma once

#include <rapidcheck.h>

#include <cstdint>
#include <string>
#include <vector>

namespace fulgur::test {

inline void append_utf8(std::string& text, uint32_t code_point) {
  const auto add = [&](uint32_t byte) { text += static_cast<char>(byte); };
  if (code_point < 0x80) {
    add(code_point);
  } else if (code_point < 0x800) {
    add(0xc0 | code_point >> 6);
    add(0x80 | (code_point & 0x3f));
  } else if (code_point < 0x10000) {
    add(0xe0 | code_point >> 12);
    add(0x80 | (code_point >> 6 & 0x3f));
    add(0x80 | (code_point & 0x3f));
  } else {
    add(0xf0 | code_point >> 18);
    add(0x80 | (code_point >> 12 & 0x3f));
    add(0x80 | (code_point >> 6 & 0x3f));
    add(0x80 | (code_point & 0x3f));
  }
}

/// Valid UTF-8 of any code points, the short ones more often.
inline rc::Gen<std::string> any_text() {
  const auto code_point =
      rc::gen::oneOf(rc::gen::inRange<uint32_t>(0x20, 0x7f), rc::gen::inRange<uint32_t>(0, 0x100),
                     rc::gen::inRange<uint32_t>(0x100, 0xd800), rc::gen::inRange<uint32_t>(0xe000, 0x110000));
  return rc::gen::map(rc::gen::container<std::vector<uint32_t>>(code_point),
                      [](const std::vector<uint32_t>& code_points) {
                        std::string text;
                        for (const uint32_t c : code_points) append_utf8(text, c);
                        return text;
                      });
}

}  // namespace fulgur::test
