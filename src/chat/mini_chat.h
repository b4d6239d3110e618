#pragma once

#include <string>
#include <vector>

#include "chat/segment.h"

namespace fulgur::chat {

// mini-v32's chat form, which is the plain one of DeepSeek-V3 (models/mini-v32/README.md):
//
//   <｜begin▁of▁sentence｜>system<｜User｜>question<｜Assistant｜>answer<｜end▁of▁sentence｜><｜User｜>...

/// The conversation's begin: BOS and the system message, which may be empty.
std::vector<Segment> begin(const std::string& system);
/// A question, and the token after which the model answers.
std::vector<Segment> user_turn(const std::string& question);
/// What the model itself ends an answer with; for an answer that was cut short.
std::vector<Segment> end_of_answer();

}  // namespace fulgur::chat
