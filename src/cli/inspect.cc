// fulgur inspect: what a checkpoint holds, how it would be loaded, and what is wrong with it.

#include <fmt/format.h>
#include <fnmatch.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "checkpoint/ledger.h"
#include "checkpoint/verify.h"
#include "cli/command.h"
#include "cli/inspect_report.h"
#include "cli/model_options.h"
#include "cli/progress.h"
#include "cli/random_options.h"
#include "cli/streams.h"
#include "cli/threads_option.h"
#include "ops/token_batch.h"
#include "runtime/choose_backend.h"

namespace fulgur::cli {
namespace {

constexpr const char* kEvery = "*";

struct Options {
  std::string folder;
  RandomOptions random;  // instead of the folder
  std::string parameter = kEvery;
  Precision precision = Precision::kNative;
  CacheForms cache_forms;
  int64_t context = 0;  // 0: all that the model has positions for
  int64_t batch = 1;
  int threads = 0;
  bool verify = false;
  bool json = false;
};

Problem no_match(const std::string& glob, size_t num_parameters) {
  return {.kind = ErrorKind::kBadRequest,
          .message = fmt::format("No parameter of this model matches '{}'.", glob),
          .expected = "a glob over whole names, such as '*.indexer.*'",
          .found = fmt::format("none of {} names", num_parameters),
          .todo = "run without --parameter to see the names"};
}

InspectReport report_of(const Inspection& inspection, const Options& options) {
  InspectReport report{.inspection = inspection, .batch = options.batch};
  if (!inspection.plan) return report;
  report.context = options.context > 0 ? options.context : inspection.config->max_position_embeddings;
  report.cache_dtypes =
      cache_dtypes(options.cache_forms, *inspection.config, options.precision, choose_backend());
  report.memory = memory_need(*inspection.config, *inspection.plan, *inspection.catalog,
                              {.threads = num_threads(options.threads),
                               .precision = options.precision,
                               .cache_forms = options.cache_forms,
                               .num_drafts = inspection.plan->mtp ? kDefaultDrafts : 0},
                              {.cache_tokens = pages_for(report.context) * kPageTokens * options.batch,
                               .context = report.context,
                               .sequences = options.batch});
  report.lines = parameter_lines(inspection, options.parameter);  // behind: a run holds none of it
  return report;
}

/// The tokenizer, which generating would refuse beside the tensors, and hold in memory.
std::optional<Tokenizer> read_tokenizer(const Options& options, std::vector<Problem>& problems) {
  std::error_code ignored;
  if (options.random.chosen() || !std::filesystem::is_directory(options.folder, ignored)) return std::nullopt;
  try {
    return Tokenizer::load_if_present(options.folder);
  } catch (const Error& error) {
    problems.insert(problems.end(), error.problems().begin(), error.problems().end());
    return std::nullopt;
  }
}

bool matches(const std::string& glob, const std::string& name) {
  return fnmatch(glob.c_str(), name.c_str(), 0) == 0;
}

/// Those of the parameters that are shown, then those of no tensor, then how many there are of others.
void print_narrowed(std::vector<Problem> problems, const InspectReport& report, const std::string& glob) {
  std::vector<const Parameter*> shown;
  for (const ParameterLine& line : report.lines) shown.push_back(line.parameter);
  const auto modules = modules_of(shown);
  const auto is_shown = [&](const Problem& problem) {
    if (!is_of_tensor(problem)) return false;
    const std::string module(split_last(problem.tensor).first);
    return modules.contains(module) || matches(glob, problem.tensor) || matches(glob, module);
  };
  const auto others = std::stable_partition(problems.begin(), problems.end(), is_shown);
  const auto hidden = std::stable_partition(others, problems.end(),
                                            [](const Problem& problem) { return !is_of_tensor(problem); });
  const auto count = std::distance(hidden, problems.end());
  problems.erase(hidden, problems.end());
  if (!problems.empty()) print_log("{}\n", Error(std::move(problems)).what());
  if (count > 0)
    log_notice(fmt::format("{} error{} of other tensors than those of '{}' {} not shown here.", count,
                           count == 1 ? "" : "s", glob, count == 1 ? "is" : "are"));
}

int inspect(const Options& options) {
  if (options.folder.empty() && !options.random.chosen()) usage_required("DIR or --random-weights");
  Inspection inspection =
      inspect_model(options.random.chosen() ? read_model_files(random_weights(options.random))
                                            : read_model_files(options.folder),
                    options.precision);
  if (options.verify && inspection.plan && inspection.problems.empty()) {
    Progress progress("verifying", "B");
    inspection.problems = verify(inspection.plan->load, *inspection.catalog, num_threads(options.threads),
                                 [&](uint64_t done, uint64_t total) { progress.update(done, total); });
  }
  const std::optional<Tokenizer> tokenizer = read_tokenizer(options, inspection.problems);
  const InspectReport report = report_of(inspection, options);
  if (inspection.plan && report.lines.empty() && !inspection.plan->parameters.empty())
    inspection.problems.push_back(no_match(options.parameter, inspection.plan->parameters.size()));
  if (options.json) {
    write_out(json_text(report));
  } else {
    print_table(report);
  }
  if (inspection.problems.empty()) return kExitDone;
  if (options.parameter == kEvery) throw Error(std::move(inspection.problems));
  print_narrowed(std::move(inspection.problems), report, options.parameter);
  return kExitFailed;
}

}  // namespace

std::vector<ParameterLine> parameter_lines(const Inspection& inspection, const std::string& glob) {
  const ModelPlan& plan = *inspection.plan;
  const Catalog& catalog = *inspection.catalog;
  std::vector<ParameterLine> lines;
  for (size_t i = 0; i < plan.load.parameters.size(); ++i) {
    ParameterLine line{.parameter = &plan.parameters[i], .planned = &plan.load.parameters[i]};
    if (!matches(glob, line.parameter->name)) continue;
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
  add_precision_options(args, options->precision, options->cache_forms);
  add_threads_option(args, options->threads,
                     "Threads of --verify, and of a run for the memory (default: all)");
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
