#pragma once

#include <functional>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "base/error.h"
#include "golden_checkpoint.h"

namespace fulgur {

/// What is said of a damaged checkpoint.
struct Expected {
  std::vector<std::string> problems;  // "kind tensor", each, in any order, and no other
  std::vector<std::string> words;     // in the report
  /// Loading refuses it. Not so where only reading every value finds it (`inspect --verify`).
  bool when_loaded = true;
};

/// One row of the table of defects.
struct Defect {
  const char* name;
  /// Damages a checkpoint; nothing where the defect doesn't apply to it.
  std::function<std::optional<Expected>(GoldenCheckpoint&)> damage;
};

inline void PrintTo(const Defect& defect, std::ostream* out) { *out << defect.name; }

/// Tensors that are missing, too many, misspelt, of another shape or type; configs that contradict them.
std::vector<Defect> tensor_defects();
/// Scales of FP8 and NVFP4, and values that are none.
std::vector<Defect> scale_defects();
/// Headers, index, files.
std::vector<Defect> file_defects();

inline std::string problem(ErrorKind kind, const std::string& tensor = {}) {
  return std::string(name(kind)) + (tensor.empty() ? "" : " " + tensor);
}

inline Expected refused(ErrorKind kind, const std::string& tensor = {}, std::vector<std::string> words = {}) {
  return {{problem(kind, tensor)}, std::move(words)};
}

inline Expected refused(ErrorKind kind, const std::vector<std::string>& tensors,
                        std::vector<std::string> words = {}) {
  Expected expected{{}, std::move(words)};
  for (const std::string& tensor : tensors) expected.problems.push_back(problem(kind, tensor));
  return expected;
}

/// Of what only reading every value finds.
inline Expected found_by_verify(Expected expected) {
  expected.when_loaded = false;
  return expected;
}

}  // namespace fulgur
