#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <string_view>
#include <tuple>
#include <utility>

#include "cli/inspect_report.h"
#include "cli/streams.h"

namespace fulgur::cli {
namespace {

std::string gibibytes(uint64_t bytes) {
  constexpr double kMib = 1 << 20;
  constexpr double kGib = 1 << 30;
  const auto value = static_cast<double>(bytes);
  return value < kGib ? fmt::format("{:.1f} MiB", value / kMib) : fmt::format("{:.1f} GiB", value / kGib);
}

/// "model.layers.3.mlp" -> "model.layers.*.mlp": layers and experts that are alike share a line.
std::string numbers_starred(std::string_view name) {
  std::string text;
  while (!name.empty()) {
    const size_t dot = std::min(name.find('.'), name.size());
    const std::string_view component = name.substr(0, dot);
    const bool number = component.find_first_not_of("0123456789") == std::string_view::npos;
    text += number ? "*" : component;
    if (dot < name.size()) text += '.';
    name.remove_prefix(std::min(dot + 1, name.size()));
  }
  return text;
}

/// A source's name without the components that it has in common with the parameter's.
std::string_view own_part(std::string_view source, std::string_view parameter) {
  size_t begin = 0;
  for (size_t i = 0; i < source.size(); ++i) {
    const bool same = i < parameter.size() ? source[i] == parameter[i] : i == parameter.size();
    if (!same) break;
    if (source[i] == '.') begin = i + 1;
  }
  return source.substr(begin);
}

/// "wk.weight (FP8 ...): dequantize ..., concat rows + ..."
std::string made_from(const ParameterLine& line, const Catalog& catalog) {
  std::vector<std::string> parts;
  for (const PlannedSource& source : line.planned->sources) {
    std::vector<std::string> names;
    const auto add = [&](int entry) {
      names.emplace_back(own_part(catalog.entries[static_cast<size_t>(entry)].name, line.parameter->name));
    };
    add(source.entry);
    for (const PlannedScale& scale : source.scales) add(scale.entry);
    parts.push_back(fmt::format("{} {}: {}", form_text(source), fmt::join(names, " "),
                                fmt::join(step_texts(source, line.planned->held), ", ")));
  }
  return parts.empty() ? "nothing (see the errors)" : fmt::format("{}", fmt::join(parts, " + "));
}

void print_parameters(const std::vector<ParameterLine>& lines, const Catalog& catalog) {
  using Key = std::tuple<std::string, std::string, std::string, std::string>;  // name, shape, form, from
  std::map<Key, size_t> places;
  std::vector<std::pair<Key, int64_t>> rows;  // in the model's order, with how many are alike
  for (const ParameterLine& line : lines) {
    Key key{numbers_starred(line.parameter->name),
            fmt::format("[{}, {}]", line.parameter->rows, line.parameter->cols),
            std::string(line.sources.empty() ? "" : name(line.planned->held)), made_from(line, catalog)};
    const auto [place, added] = places.emplace(key, rows.size());
    if (added) rows.emplace_back(std::move(key), 0);
    ++rows[place->second].second;
  }
  size_t widths[] = {9, 5, 4};
  for (const auto& [key, count] : rows) {
    widths[0] = std::max(widths[0], std::get<0>(key).size());
    widths[1] = std::max(widths[1], std::get<1>(key).size());
    widths[2] = std::max(widths[2], std::get<2>(key).size());
  }
  print_out("\n{:>6}  {:<{}}  {:<{}}  {:<{}}  from\n", "count", "parameter", widths[0], "shape", widths[1],
            "form", widths[2]);
  for (const auto& [key, count] : rows) {
    print_out("{:>6}  {:<{}}  {:<{}}  {:<{}}  {}\n", count, std::get<0>(key), widths[0], std::get<1>(key),
              widths[1], std::get<2>(key), widths[2], std::get<3>(key));
  }
}

}  // namespace

void print_table(const InspectReport& report) {
  const Inspection& inspection = report.inspection;
  if (inspection.config) {
    const Config& config = *inspection.config;
    print_out("model       {}, {} layers, hidden {}, {} routed experts{}\n", name(config.model_type),
              config.num_hidden_layers, config.hidden_size, config.n_routed_experts,
              config.sparse() ? fmt::format(", index_topk {}", config.index_topk) : ", no indexer");
  }
  if (inspection.catalog) {
    uint64_t bytes = 0;
    for (const CatalogEntry& entry : inspection.catalog->entries) bytes += entry.bytes;
    const size_t files = inspection.catalog->files.size();
    print_out("checkpoint  {} tensors {}, {}\n", inspection.catalog->entries.size(),
              files == 0 ? "drawn at random" : fmt::format("in {} file{}", files, files == 1 ? "" : "s"),
              gibibytes(bytes));
  }
  if (!inspection.plan) return;
  std::string_view label = "stored";
  for (const auto& [form, bytes] : stored_bytes(inspection.plan->load, *inspection.catalog)) {
    print_out("{:<10}  {:<18} {:>10}\n", std::exchange(label, ""), form, gibibytes(bytes));
  }
  std::map<std::string, int64_t> ignored;
  for (const IgnoredTensor& tensor : inspection.plan->load.ignored) ++ignored[tensor.rule];
  label = "ignored";
  for (const auto& [rule, count] : ignored) {
    print_out("{:<10}  {} tensors: {}\n", std::exchange(label, ""), count, rule);
  }
  const MemoryNeed& memory = *report.memory;
  print_out(
      "memory      {}: weights {} mapped and {} copied from {}, caches {} for {} x {} tokens, "
      "steps {}, the program itself {}\n",
      gibibytes(memory.total()), gibibytes(memory.weights.mapped), gibibytes(memory.weights.copied),
      gibibytes(memory.weights.sources), gibibytes(memory.cache()), report.batch, report.context,
      gibibytes(memory.tables + memory.scratch + memory.host), gibibytes(memory.stacks + memory.process));
  print_out("caches      latents {} {}{}\n", cache_form_name(report.cache_dtypes.latents),
            gibibytes(memory.latents),
            memory.index_keys == 0
                ? ""
                : fmt::format(", index keys {} {}", cache_form_name(report.cache_dtypes.index_keys),
                              gibibytes(memory.index_keys)));
  for (const std::string& notice : inspection.plan->notices) print_out("notice      {}\n", notice);
  if (!report.lines.empty()) print_parameters(report.lines, *inspection.catalog);
}

}  // namespace fulgur::cli
