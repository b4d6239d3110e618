#include "chat/mini_chat.h"

namespace fulgur::chat {
namespace {

constexpr const char* kBegin = "<｜begin▁of▁sentence｜>";
constexpr const char* kEnd = "<｜end▁of▁sentence｜>";
constexpr const char* kUser = "<｜User｜>";
constexpr const char* kAssistant = "<｜Assistant｜>";

}  // namespace

std::vector<Segment> begin(const std::string& system) {
  std::vector<Segment> segments = {{true, kBegin}};
  if (!system.empty()) segments.push_back({false, system});
  return segments;
}

std::vector<Segment> user_turn(const std::string& question) {
  return {{true, kUser}, {false, question}, {true, kAssistant}};
}

std::vector<Segment> end_of_answer() { return {{true, kEnd}}; }

}  // namespace fulgur::chat
