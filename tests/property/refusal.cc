#include "property/refusal.h"

#include <fmt/format.h>

#include <algorithm>

namespace fulgur::property {
namespace {

bool says(const Problem& problem, const Refusal& refusal) {
  return problem.kind == refusal.kind && (problem.tensor == refusal.name || problem.file == refusal.name ||
                                          problem.message.find(refusal.name) != std::string::npos);
}

}  // namespace

std::string disagreement(const std::vector<Refusal>& expected, const std::vector<Problem>& found) {
  std::vector<Problem> rest = found;
  std::string text;
  for (const Refusal& refusal : expected) {
    const auto at =
        std::find_if(rest.begin(), rest.end(), [&](const Problem& p) { return says(p, refusal); });
    if (at != rest.end()) {
      rest.erase(at);
    } else {
      text += fmt::format("not refused: {} {}\n", name(refusal.kind), refusal.name);
    }
  }
  for (const Problem& problem : rest) text += "unexpected: " + describe(problem) + "\n";
  return text;
}

}  // namespace fulgur::property
