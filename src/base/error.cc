#include "base/error.h"

#include <array>
#include <cstddef>
#include <map>
#include <utility>

namespace fulgur {

std::string_view name(ErrorKind kind) {
  static constexpr std::array<std::string_view, 18> kNames = {
      "missing_tensor", "conflicting_tensors", "shape_mismatch", "missing_scale", "orphan_scale", "bad_scale",
      "unknown_dtype",  "unexpected_tensor",   "truncated_file", "bad_header",    "bad_index",    "bad_value",
      "io_error",       "bad_tokenizer",       "bad_config",     "unsupported",   "bad_request",  "device"};
  return kNames[static_cast<size_t>(kind)];
}

std::string describe(const Problem& problem) {
  std::string text = problem.file.empty() ? problem.message : problem.file + ": " + problem.message;
  if (!problem.expected.empty()) text += "\n  expected  " + problem.expected;
  if (!problem.found.empty()) text += "\n  found     " + problem.found;
  if (!problem.todo.empty()) text += "\n  to do     " + problem.todo;
  return text;
}

namespace {

constexpr int kMostOfAKind = 20;

std::string report(const std::vector<Problem>& problems) {
  std::map<ErrorKind, int> seen;
  std::string text;
  for (const Problem& problem : problems) {
    if (++seen[problem.kind] > kMostOfAKind) continue;
    if (!text.empty()) text += "\n\n";
    text += describe(problem);
  }
  for (const auto& [kind, count] : seen) {
    if (count > kMostOfAKind) {
      text +=
          "\n... and " + std::to_string(count - kMostOfAKind) + " more of kind " + std::string(name(kind));
    }
  }
  return text;
}

}  // namespace

Error::Error(std::vector<Problem> problems) : problems_(std::move(problems)), what_(report(problems_)) {}
Error::Error(Problem problem) : Error(std::vector<Problem>{std::move(problem)}) {}
Error::Error(ErrorKind kind, std::string message)
    : Error(Problem{.kind = kind, .message = std::move(message)}) {}

}  // namespace fulgur
