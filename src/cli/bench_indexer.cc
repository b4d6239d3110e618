// fulgur bench indexer: the indexer's kernels on a GPU.

#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "cli/bench.h"
#include "cli/command.h"
#include "cli/streams.h"
#include "runtime/choose_backend.h"
#include "runtime/indexer_bench.h"

namespace fulgur::cli {
namespace {

struct Options {
  std::string device = "cuda";
  std::string model = "v32";
  IndexerBench bench;
  bool json = false;
};

double tb_per_s(const BenchLine& line) {
  return static_cast<double>(line.bytes) / line.with_pdl.median / 1e6;
}

void print_json(const BenchLine& line) {
  print_out("{}\n", nlohmann::ordered_json{{"what", line.what},
                                           {"how", line.how},
                                           {"tokens", line.tokens},
                                           {"bytes", line.bytes},
                                           {"us", json_of(line.without_pdl)},
                                           {"us_with_pdl", json_of(line.with_pdl)},
                                           {"limit_us", line.limit_us},
                                           {"limit_us_with_pdl", line.limit_us_with_pdl},
                                           {"tb_per_s", tb_per_s(line)}}
                        .dump());
}

void print_line(const BenchLine& line) {
  print_out("{:<11}{:<11}{:>5}{:>9.2f}  {:<26}{:<26}{:>5.2f}{:>9.2f}{:>7.0f} %\n", line.what, line.how,
            line.tokens, static_cast<double>(line.bytes) / 1e6, text(line.without_pdl, 2),
            text(line.with_pdl, 2), tb_per_s(line), line.limit_us_with_pdl,
            100 * line.limit_us_with_pdl / line.with_pdl.median);
}

void check(const IndexerBench& bench) {
  const int each = bench.tokens_per_sequence;
  for (const int tokens : bench.tokens) {
    if (tokens % each != 0)
      usage_error("--tokens", fmt::format("{} are not a multiple of --tokens-per-sequence {}", tokens, each));
  }
  if (bench.context < each)
    usage_error("--context", fmt::format("{} are less than --tokens-per-sequence {}", bench.context, each));
}

int run_bench(const Options& options) {
  IndexerBench bench = options.bench;
  check(bench);
  bench.model = options.model == "glm5" ? BenchModel::kGlm5 : BenchModel::kV32;
  const auto take = [&](const BenchLine& line) {
    if (options.json) return print_json(line);
    print_line(line);
  };
  if (!options.json && gpu().why_not.empty()) {
    print_out("{}; {}, context {}, us a call: median (least-most) of {} replays\n", gpu().device,
              options.model, bench.context, bench.replays);
    print_out("{:<11}{:<11}{:>5}{:>9}  {:<26}{:<26}{:>5}{:>9}{:>9}\n", "op", "way", "M", "MB", "us",
              "us with PDL", "TB/s", "limit us", "reached");
  }
  bench_indexer(bench, take);
  return kExitDone;
}

}  // namespace

std::function<int()> declare_bench_indexer(Arguments& args) {
  auto options = std::make_shared<Options>();
  args.add_option("--device", options->device, "Where (default: cuda)").one_of({"cuda"});
  args.add_option("--model", options->model, "Whose shapes: v32 or glm5 (default: v32)")
      .one_of({"v32", "glm5"});
  args.add_option("--tokens", options->bench.tokens, "Tokens of the step (default: 1,2,8,32,128)")
      .comma_separated()
      .integer_range(1, 1024);
  args.add_option("--tokens-per-sequence", options->bench.tokens_per_sequence,
                  "So many of each sequence, as when drafts are verified (default: 1)")
      .integer_range(1, 17);
  args.add_option("--context", options->bench.context, "Tokens of each sequence (default: 8192)")
      .integer_range(1, 1 << 20);
  args.add_option("--replays", options->bench.replays, "Replays of the graph (default: 21)")
      .integer_range(1, 1000);
  args.add_flag("--own", options->bench.own_alone,
                "Leave out cuBLASLt's modes and the kernels for any shape, which take most of the time");
  args.add_flag("--json", options->json, "Print one JSON object a line");
  args.footer(
      "Times the indexer's decode step on the first GPU: a graph of at least 64 calls is replayed; weights "
      "and\n"
      "pages rotate over 200 MB. 'limit' is a cold read of as many bytes in the same run, with PDL as well, "
      "and\n"
      "'reached' the part of it. The selection for any shape is left out above a million scores.\n\n"
      "Examples:\n"
      "  fulgur bench indexer\n"
      "  fulgur bench indexer --device cuda --model glm5 --tokens 1,32 --context 32768 --json");
  return [options] { return run_bench(*options); };
}

}  // namespace fulgur::cli
