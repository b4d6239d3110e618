#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "cli/inspect_report.h"

// Text is appended as it is made: 60,000 parameters as JSON values take longer to build than all headers to
// read.

namespace fulgur::cli {
namespace {

void append(std::string& text, std::string_view value) {
  const bool plain = std::all_of(value.begin(), value.end(),
                                 [](char c) { return c >= ' ' && c <= '~' && c != '"' && c != '\\'; });
  if (plain) {
    text += '"';
    text += value;
    text += '"';
  } else {  // a file's name need not be UTF-8
    text +=
        nlohmann::json(value).dump(-1, ' ', /*ensure_ascii=*/false, nlohmann::json::error_handler_t::replace);
  }
}
void append(std::string& text, uint64_t value) { text += std::to_string(value); }

/// Behind what is there of an object, before its value.
void append_key(std::string& text, std::string_view key) {
  if (text.back() != '{') text += ',';
  append(text, key);
  text += ':';
}

template <typename Value>
void append_field(std::string& text, std::string_view key, const Value& value) {
  append_key(text, key);
  append(text, value);
}

template <typename List, typename AppendElement>
void append_list(std::string& text, const List& list, AppendElement append_element) {
  text += '[';
  for (bool first = true; const auto& element : list) {
    if (!std::exchange(first, false)) text += ',';
    append_element(element);
  }
  text += ']';
}

void append_strings(std::string& text, const std::vector<std::string>& list) {
  append_list(text, list, [&](const std::string& element) { append(text, element); });
}

void append_parameter(std::string& text, const ParameterLine& line) {
  text += '{';
  append_field(text, "name", std::string_view(line.parameter->name));
  text += fmt::format(R"(,"shape":[{},{}])", line.parameter->rows, line.parameter->cols);
  append_key(text, "form");
  if (line.sources.empty()) {
    text += "null";
  } else {
    append(text, name(line.planned->held));
  }
  append_key(text, "sources");
  append_strings(text, line.sources);
  append_key(text, "steps");
  append_strings(text, line.steps);
  text += '}';
}

void append_error(std::string& text, const Problem& problem) {
  text += '{';
  append_field(text, "kind", name(problem.kind));
  append_field(text, "file", std::string_view(problem.file));
  append_field(text, "tensor", std::string_view(problem.tensor));
  append_field(text, "expected", std::string_view(problem.expected));
  append_field(text, "found", std::string_view(problem.found));
  append_field(text, "message", std::string_view(problem.message));
  text += '}';
}

/// One kind of cache, where the model has it.
void append_cache(std::string& text, std::string_view key, DType dtype, uint64_t bytes) {
  if (bytes == 0) return;
  append_key(text, key);
  text += '{';
  append_field(text, "dtype", cache_form_name(dtype));
  append_field(text, "bytes", bytes);
  text += '}';
}

void append_memory(std::string& text, const InspectReport& report) {
  const MemoryNeed& memory = *report.memory;
  text += '{';
  append_field(text, "weights_mapped", memory.weights.mapped);
  append_field(text, "weights_copied", memory.weights.copied);
  append_field(text, "weights_sources", memory.weights.sources);
  append_field(text, "cache", memory.cache());
  append_key(text, "caches");
  text += '{';
  append_cache(text, "latents", report.cache_dtypes.latents, memory.latents);
  append_cache(text, "index_keys", report.cache_dtypes.index_keys, memory.index_keys);
  text += '}';
  append_field(text, "tables", memory.tables);
  append_field(text, "scratch", memory.scratch + memory.host);
  append_field(text, "process", memory.stacks + memory.process);
  append_field(text, "total", memory.total());
  append_field(text, "context", static_cast<uint64_t>(report.context));
  append_field(text, "batch", static_cast<uint64_t>(report.batch));
  text += '}';
}

/// What a plan tells: nothing where there is none.
void append_plan(std::string& text, const InspectReport& report) {
  const ModelPlan& plan = *report.inspection.plan;
  const Catalog& catalog = *report.inspection.catalog;
  append_key(text, "ignored");
  append_list(text, plan.load.ignored, [&](const IgnoredTensor& ignored) {
    text += '{';
    append_field(text, "name", std::string_view(catalog.entries[static_cast<size_t>(ignored.entry)].name));
    append_field(text, "rule", std::string_view(ignored.rule));
    text += '}';
  });
  append_key(text, "bytes");
  text += '{';
  for (const auto& [form, bytes] : stored_bytes(plan.load, catalog)) append_field(text, form, bytes);
  text += '}';
  append_key(text, "memory");
  append_memory(text, report);
}

}  // namespace

std::string json_text(const InspectReport& report) {
  const Inspection& inspection = report.inspection;
  std::string text = "{";
  append_key(text, "model");
  if (inspection.config) {
    append(text, name(inspection.config->model_type));
  } else {
    text += "null";
  }
  append_key(text, "parameters");
  append_list(text, report.lines, [&](const ParameterLine& line) { append_parameter(text, line); });
  if (inspection.plan) {
    append_plan(text, report);
  } else {
    text += R"(,"ignored":[],"bytes":{},"memory":null)";
  }
  append_key(text, "errors");
  append_list(text, inspection.problems, [&](const Problem& problem) { append_error(text, problem); });
  append_key(text, "notices");
  append_strings(text, inspection.plan ? inspection.plan->notices : std::vector<std::string>());
  return text + "}\n";
}

}  // namespace fulgur::cli
