#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "model/inspection.h"
#include "runtime/memory_need.h"

namespace fulgur::cli {

/// One parameter in words: what it is made from and how.
struct ParameterLine {
  const Parameter* parameter = nullptr;
  const PlannedParameter* planned = nullptr;
  std::vector<std::string> sources;  // weights and their scales; none where an error says why
  std::vector<std::string> steps;
};

/// What `fulgur inspect` prints.
struct InspectReport {
  const Inspection& inspection;
  std::vector<ParameterLine> lines;  // of the parameters that were asked for
  std::optional<MemoryNeed> memory;  // where there is a plan
  CacheDTypes cache_dtypes;          // that the memory is for
  int64_t context = 0;               // tokens of a sequence that the memory is for
  int64_t batch = 1;
};

/// Parameters whose names match, in the model's order.
std::vector<ParameterLine> parameter_lines(const Inspection& inspection, const std::string& glob);

/// One JSON object (docs/spec/commands.md, inspect), and a line's end.
std::string json_text(const InspectReport& report);

/// A table for people.
void print_table(const InspectReport& report);

}  // namespace fulgur::cli
