// fulgur bench: a command for each thing that can be timed.

#include "cli/bench.h"

#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "cli/command.h"

namespace fulgur::cli {

std::function<int()> declare_bench(Arguments& args) {
  auto chosen = std::make_shared<std::function<int()>>();
  const auto add = [&](const char* name, const char* summary, Declare declare) {
    auto run = std::make_shared<std::function<int()>>();
    Arguments sub = args.add_command(name, summary, [chosen, run] { *chosen = *run; });
    *run = declare(sub);
  };
  add("engine", "Time a model at many requests, with cached prefixes and with drafts", declare_bench_engine);
  add("indexer", "Time the indexer's kernels on a GPU", declare_bench_indexer);
  args.footer(
      "Examples:\n"
      "  fulgur bench engine --requests 1,16\n"
      "  fulgur bench indexer --tokens 1,128");
  return [chosen] { return (*chosen)(); };
}

std::string text(const Spread& spread, int digits) {
  return fmt::format("{:.{}f} ({:.{}f}-{:.{}f})", spread.median, digits, spread.least, digits, spread.most,
                     digits);
}

nlohmann::ordered_json json_of(const Spread& spread) {
  return {{"median", spread.median}, {"least", spread.least}, {"most", spread.most}};
}

}  // namespace fulgur::cli
