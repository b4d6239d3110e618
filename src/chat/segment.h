#pragma once

#include <string>

namespace fulgur::chat {

/// A piece of a prompt: a control token by its text, or what somebody wrote, which stays text whatever it
/// spells.
struct Segment {
  bool control = false;
  std::string text;

  bool operator==(const Segment&) const = default;
};

}  // namespace fulgur::chat
