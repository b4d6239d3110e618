#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>

#include "base/error.h"

namespace fulgur {

/// What is promised of every refusal: its first line is a sentence that names file and tensor (or field);
/// then what was expected, what was found, what to do; nothing in it that a terminal would obey.
inline void expect_whole(const Problem& problem) {
  const std::string text = describe(problem);
  const std::string first = text.substr(0, text.find('\n'));
  EXPECT_TRUE(problem.message.ends_with('.') || problem.message.ends_with('?')) << text;
  EXPECT_NE(problem.message.find(' '), std::string::npos) << text;
  EXPECT_FALSE(problem.file.empty()) << text;
  const bool is_plain_name = std::none_of(problem.tensor.begin(), problem.tensor.end(),
                                          [](unsigned char c) { return std::iscntrl(c) != 0; });
  if (is_plain_name) {
    EXPECT_NE(first.find(problem.tensor), std::string::npos) << text;
  }
  EXPECT_FALSE(problem.expected.empty()) << text;
  EXPECT_FALSE(problem.found.empty()) << text;
  EXPECT_FALSE(problem.todo.empty()) << text;
  for (const std::string& line :
       {problem.file, problem.message, problem.expected, problem.found, problem.todo}) {
    EXPECT_LT(line.size(), 1000U) << text;
    EXPECT_TRUE(std::none_of(line.begin(), line.end(), [](unsigned char c) { return std::iscntrl(c) != 0; }))
        << text;
  }
}

inline void expect_whole(const std::vector<Problem>& problems) {
  for (const Problem& problem : problems) expect_whole(problem);
}

}  // namespace fulgur
