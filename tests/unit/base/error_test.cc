#include "base/error.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace fulgur {
namespace {

TEST(Problem, IsASentenceAndThenALineEachForWhatIsKnown) {
  EXPECT_EQ(describe({.kind = ErrorKind::kMissingScale,
                      .file = "a.safetensors",
                      .tensor = "w",
                      .message = "w has no scale.",
                      .expected = "w_scale_inv, F32 [1, 56]",
                      .found = "nothing",
                      .todo = "convert again"}),
            "a.safetensors: w has no scale.\n"
            "  expected  w_scale_inv, F32 [1, 56]\n"
            "  found     nothing\n"
            "  to do     convert again");
}

TEST(Problem, LeavesOutWhatIsEmpty) {
  EXPECT_EQ(describe({.kind = ErrorKind::kBadRequest, .message = "No prompt."}), "No prompt.");
  EXPECT_EQ(describe({.message = "Odd.", .found = "3"}), "Odd.\n  found     3");
}

TEST(Error, PrintsAllProblemsWithoutItsContext) {
  Error error(std::vector<Problem>{{.kind = ErrorKind::kBadHeader, .message = "First."},
                                   {.kind = ErrorKind::kBadIndex, .message = "Second."}});
  error.add_context("loading models/x");
  EXPECT_EQ(error.kind(), ErrorKind::kBadHeader);
  EXPECT_EQ(std::string(error.what()).find("loading"), std::string::npos);
  EXPECT_LT(std::string(error.what()).find("First."), std::string(error.what()).find("Second."));
  EXPECT_EQ(error.context(), std::vector<std::string>{"loading models/x"});
}

TEST(Error, PutsABlankLineBetweenProblems) {
  const Error error(std::vector<Problem>{{.message = "First.", .found = "1"}, {.message = "Second."}});
  EXPECT_STREQ(error.what(), "First.\n  found     1\n\nSecond.");
}

TEST(Error, ShowsTwentyOfAKindAndCountsTheRest) {
  std::vector<Problem> problems;
  for (int i = 0; i < 23; ++i) {
    problems.push_back({.kind = ErrorKind::kMissingTensor, .message = "missing " + std::to_string(i) + "."});
  }
  problems.push_back({.kind = ErrorKind::kBadIndex, .message = "The index is odd."});
  const Error error(problems);
  const std::string text = error.what();
  EXPECT_NE(text.find("missing 19."), std::string::npos);
  EXPECT_EQ(text.find("missing 20."), std::string::npos);
  EXPECT_NE(text.find("and 3 more of kind missing_tensor"), std::string::npos);
  EXPECT_NE(text.find("The index is odd."), std::string::npos);
  EXPECT_EQ(error.problems().size(), 24U);
}

TEST(ErrorKind, HasANameOfItsOwnForEveryKind) {
  std::vector<std::string> names;
  for (int i = 0; i <= static_cast<int>(ErrorKind::kDevice); ++i) {
    const std::string text(name(static_cast<ErrorKind>(i)));
    EXPECT_FALSE(text.empty());
    EXPECT_EQ(std::count(names.begin(), names.end(), text), 0) << text;
    names.push_back(text);
  }
  EXPECT_EQ(name(ErrorKind::kMissingTensor), "missing_tensor");
  EXPECT_EQ(name(ErrorKind::kShapeMismatch), "shape_mismatch");
  EXPECT_EQ(name(ErrorKind::kDevice), "device");
}

}  // namespace
}  // namespace fulgur
