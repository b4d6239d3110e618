#pragma once

#include <string>
#include <vector>

#include "base/error.h"

namespace fulgur::property {

/// What must be said: a problem of this kind that has this name as its tensor or file, or in its sentence.
struct Refusal {
  ErrorKind kind{};
  std::string name;
};

/// Where `found` isn't just what is expected; empty if it is.
std::string disagreement(const std::vector<Refusal>& expected, const std::vector<Problem>& found);

}  // namespace fulgur::property
