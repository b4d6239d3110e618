#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace fulgur::fuzz {

/// Stops the fuzzer at this input.
[[noreturn]] inline void fail(std::string_view what, const std::string& text) {
  std::fprintf(stderr, "%.*s: %s\n", static_cast<int>(what.size()), what.data(), text.c_str());
  std::abort();
}

inline void check(bool holds, std::string_view what, const std::string& text = {}) {
  if (!holds) fail(what, text);
}

/// Whatever a file holds, a terminal and a JSON report can take it.
inline void check_printable(const std::string& text) {
  check(std::none_of(text.begin(), text.end(),
                     [](char c) { return static_cast<unsigned char>(c) < ' ' || c == '\x7f'; }),
        "A message holds a control character", text);
  try {
    (void)nlohmann::json(text).dump();
  } catch (const nlohmann::json::type_error&) {
    fail("A message is not UTF-8", text);
  }
}

/// What is promised of a refusal: its first line is a whole sentence, which stands alone; of a file, what was
/// expected, what was found and what to do follow.
inline void check_problem(const Problem& problem) {
  const std::string& message = problem.message;
  check(message.find(' ') != std::string::npos && (message.ends_with('.') || message.ends_with('?')),
        "This is no sentence", message);
  const bool is_whole = !problem.expected.empty() && !problem.found.empty() && !problem.todo.empty();
  check(problem.file.empty() || is_whole, "This says too little", describe(problem));
  for (const std::string& line : {problem.file, message, problem.expected, problem.found, problem.todo})
    check_printable(line);
}

inline void check_problems(const std::vector<Problem>& problems) {
  for (const Problem& problem : problems) check_problem(problem);
}

/// Runs `action`: a refusal is as good as success, anything else that is thrown is a bug.
template <typename Action>
void try_out(Action action) {
  try {
    action();
  } catch (const Error& error) {
    check(!error.problems().empty(), "An error without a problem");
    check_problems(error.problems());
  }
}

/// The parts of an input: NUL, which none of these files may hold, ends each but the last.
inline std::vector<std::string_view> parts(const uint8_t* data, size_t size, size_t count) {
  std::string_view rest(reinterpret_cast<const char*>(data), size);
  std::vector<std::string_view> found;
  while (found.size() + 1 < count && rest.find('\0') != std::string_view::npos) {
    const size_t end = rest.find('\0');
    found.push_back(rest.substr(0, end));
    rest.remove_prefix(end + 1);
  }
  found.push_back(rest);
  found.resize(count);
  return found;
}

}  // namespace fulgur::fuzz
