// fulgur inspect: what a checkpoint holds, how it would be loaded, and what is wrong with it.

#include <fmt/format.h>
#include <fnmatch.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "base/error.h"
#include "checkpoint/verify.h"
#include "cli/command.h"
#include "cli/progress.h"
#include "cli/random_options.h"
#include "cli/streams.h"
#include "cli/threads_option.h"
#include "model/inspection.h"
#include "ops/token_batch.h"
#include "runtime/memory_need.h"

namespace fulgur::cli {
namespace {

using OrderedJson = nlohmann::ordered_json;

struct Options {
  std::string folder;
  RandomOptions random;  // instead of the folder
  std::string parameter = "*";
  Precision precision = Precision::kNative;
  int64_t context = 0;  // 0: all that the model has positions for
  int64_t batch = 1;
  int threads = 0;
  bool verify = false;
  bool json = false;
};

int64_t context_of(const Inspection& inspection, const Options& options) {
  return options.context > 0 ? options.context : inspection.config->max_position_embeddings;
}

/// What running it would take, with `--context` and `--batch`.
MemoryNeed predict(const Inspection& inspection, const Options& options) {
  const int64_t pages = (context_of(inspection, options) + kPageTokens - 1) / kPageTokens;
  return memory_need(*inspection.config, options.precision, *inspection.plan, *inspection.catalog,
                     pages * kPageTokens * options.batch);
}

/// One parameter in words: what it is made from and how.
struct Line {
  const Parameter* parameter = nullptr;
  const PlannedParameter* planned = nullptr;
  std::vector<std::string> sources;  // weights and their scales
  std::vector<std::string> steps;
};

std::vector<Line> chosen_lines(const Inspection& inspection, const std::string& glob) {
  const ModelPlan& plan = *inspection.plan;
  const Catalog& catalog = *inspection.catalog;
  std::vector<Line> lines;
  for (size_t i = 0; i < plan.load.parameters.size(); ++i) {
    Line line{.parameter = &plan.parameters[i], .planned = &plan.load.parameters[i]};
    if (fnmatch(glob.c_str(), line.parameter->name.c_str(), 0) != 0) continue;
    const auto name_of = [&](int entry) { return catalog.entries[static_cast<size_t>(entry)].name; };
    for (const PlannedSource& source : line.planned->sources) {
      line.sources.push_back(name_of(source.entry));
      for (std::string& step : step_texts(source, line.planned->held)) line.steps.push_back(std::move(step));
      for (const PlannedScale& scale : source.scales) {
        line.sources.push_back(name_of(scale.entry));
        for (std::string& step : step_texts(scale, catalog)) {
          line.steps.push_back(fmt::format("{}: {}", name_of(scale.entry), step));
        }
      }
    }
    lines.push_back(std::move(line));
  }
  return lines;
}

OrderedJson json_of(const Problem& problem) {
  return {{"kind", name(problem.kind)},   {"file", problem.file},   {"tensor", problem.tensor},
          {"expected", problem.expected}, {"found", problem.found}, {"message", problem.message},
          {"todo", problem.todo}};
}

std::string text_of(const OrderedJson& value) {
  // A file's name need not be UTF-8.
  return value.dump(-1, ' ', /*ensure_ascii=*/false, OrderedJson::error_handler_t::replace);
}

/// `"name":[...],`, an element at a time: 60,000 parameters as one JSON value take as long to build as all
/// headers to read.
template <typename List, typename Element>
void append_array(std::string& text, std::string_view name, const List& list, Element element) {
  text += fmt::format("\"{}\":[", name);
  for (bool first = true; const auto& item : list) {
    if (!std::exchange(first, false)) text += ',';
    text += text_of(element(item));
  }
  text += "],";
}

void print_json(const Inspection& inspection, const std::vector<Line>& lines, const Options& options) {
  std::string text = "{\"model\":";
  text += inspection.config ? text_of(name(inspection.config->model_type)) : "null";
  text += ',';
  append_array(text, "parameters", lines, [](const Line& line) -> OrderedJson {
    return {{"name", line.parameter->name},
            {"shape", {line.parameter->rows, line.parameter->cols}},
            {"form", name(line.planned->held)},
            {"sources", line.sources},
            {"steps", line.steps}};
  });
  std::span<const IgnoredTensor> ignored;
  if (inspection.plan) ignored = inspection.plan->load.ignored;
  append_array(text, "ignored", ignored, [&](const IgnoredTensor& tensor) -> OrderedJson {
    return {{"name", inspection.catalog->entries[static_cast<size_t>(tensor.entry)].name},
            {"rule", tensor.rule}};
  });
  OrderedJson rest = {{"bytes", OrderedJson::object()},
                      {"memory", nullptr},
                      {"errors", OrderedJson::array()},
                      {"notices", OrderedJson::array()}};
  if (inspection.plan) {
    rest["bytes"] = stored_bytes(inspection.plan->load, *inspection.catalog);
    const MemoryNeed memory = predict(inspection, options);
    rest["memory"] = {{"weights_mapped", memory.weights.mapped},
                      {"weights_copied", memory.weights.copied},
                      {"cache", memory.cache},
                      {"total", memory.total()},
                      {"context", context_of(inspection, options)},
                      {"batch", options.batch}};
    rest["notices"] = inspection.plan->notices;
  }
  for (const Problem& problem : inspection.problems) rest["errors"].push_back(json_of(problem));
  write_out(text + text_of(rest).substr(1) + "\n");
}

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
std::string made_from(const Line& line, const Catalog& catalog) {
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

void print_parameters(const std::vector<Line>& lines, const Catalog& catalog) {
  using Key = std::tuple<std::string, std::string, std::string, std::string>;  // name, shape, form, from
  std::map<Key, size_t> places;
  std::vector<std::pair<Key, int64_t>> rows;  // in the model's order, with how many are alike
  for (const Line& line : lines) {
    Key key{numbers_starred(line.parameter->name),
            fmt::format("[{}, {}]", line.parameter->rows, line.parameter->cols),
            std::string(name(line.planned->held)), made_from(line, catalog)};
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

void print_table(const Inspection& inspection, const std::vector<Line>& lines, const Options& options) {
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
              options.random.chosen() ? "drawn at random"
                                      : fmt::format("in {} file{}", files, files == 1 ? "" : "s"),
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
  const MemoryNeed memory = predict(inspection, options);
  print_out("memory      {}: weights {} mapped and {} copied, caches {} for {} x {} tokens\n",
            gibibytes(memory.total()), gibibytes(memory.weights.mapped), gibibytes(memory.weights.copied),
            gibibytes(memory.cache), options.batch, context_of(inspection, options));
  for (const std::string& notice : inspection.plan->notices) print_out("notice      {}\n", notice);
  if (!lines.empty()) print_parameters(lines, *inspection.catalog);
}

int inspect(const Options& options) {
  if (options.folder.empty() && !options.random.chosen()) usage_required("DIR or --random-weights");
  Inspection inspection =
      inspect_model(options.random.chosen() ? read_model_files(random_weights(options.random))
                                            : read_model_files(options.folder),
                    options.precision);
  std::vector<Line> lines;
  if (inspection.plan) {
    lines = chosen_lines(inspection, options.parameter);
    if (lines.empty() && !inspection.plan->load.parameters.empty()) {
      throw Error({.kind = ErrorKind::kBadRequest,
                   .message = fmt::format("No parameter of this model matches '{}'.", options.parameter),
                   .expected = "a glob over whole names, such as '*.indexer.*'",
                   .todo = "run without --parameter to see the names"});
    }
    if (options.verify && inspection.problems.empty()) {
      Progress progress("verifying", "B");
      inspection.problems = verify(inspection.plan->load, *inspection.catalog, num_threads(options.threads),
                                   [&](uint64_t done, uint64_t total) { progress.update(done, total); });
    }
  }
  if (options.json) {
    print_json(inspection, lines, options);
  } else {
    print_table(inspection, lines, options);
  }
  if (!inspection.problems.empty()) throw Error(std::move(inspection.problems));
  return kExitDone;
}

}  // namespace

std::function<int()> declare_inspect(Arguments& args) {
  auto options = std::make_shared<Options>();
  const Option folder = args.add_option("DIR", options->folder, "Checkpoint folder");
  add_random_options(args, options->random, &folder);
  args.add_flag("--verify", options->verify, "Read and check all values too: NaN, infinities, scales");
  args.add_option("--parameter", options->parameter, "Only parameters whose names match").type_name("GLOB");
  args.add_option("--context", options->context,
                  "Tokens of a sequence, for the memory (default: all positions)")
      .integer_range(1, int64_t{1} << 24)
      .type_name("N");
  args.add_option("--batch", options->batch, "Sequences at once, for the memory (default: 1)")
      .integer_range(1, int64_t{1} << 16)
      .type_name("N");
  add_threads_option(args, options->threads, "Threads of --verify (default: all)");
  args.add_flag("--json", options->json, "Print one JSON object");
  args.footer(
      "Examples:\n"
      "  fulgur inspect models/mini-v32\n"
      "  fulgur inspect models/mini-v32 --parameter '*.indexer.*'\n"
      "  fulgur inspect models/mini-v32 --verify --json\n"
      "  fulgur inspect --random-weights models/configs/glm-5.json --context 8192");
  return [options] { return inspect(*options); };
}

}  // namespace fulgur::cli
