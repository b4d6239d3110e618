// The fulgur program: a table of commands, and what every command does with errors.

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <exception>
#include <functional>
#include <new>
#include <string>
#include <string_view>

#include "base/error.h"
#include "cli/command.h"

namespace fulgur::cli {
namespace {

constexpr std::array kCommands = {
    Command{"generate", "Continue a prompt", declare_generate},
    Command{"chat", "Talk with the model", declare_chat},
    Command{"tokenize", "Text to token ids, and back", declare_tokenize},
    Command{"eval", "Accuracy of answers, or likelihood of text, over a file of rows", declare_eval},
    Command{"logits", "Write the model's numbers to a safetensors file", declare_logits},
    Command{"demo",
            "Find a number in 4,000 tokens with the bundled model, and compare the indexer projections",
            declare_demo},
    Command{"info", "Show this machine as Fulgur sees it: CPU, instruction sets, memory, build",
            declare_info},
};

int run_command(const std::function<int()>& command, bool verbose) {
  try {
    const int status = command();
    if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return status;
    fmt::print(stderr, "Standard output can't be written, so results are missing: is the disk full?\n");
  } catch (const Error& error) {
    fmt::print(stderr, "{}\n", error.what());
    if (verbose) {
      for (const std::string& context : error.context()) fmt::print(stderr, "  while {}\n", context);
    }
  } catch (const std::bad_alloc&) {
    fmt::print(stderr, "There is not enough memory for this.\n");
  }
  return kExitFailed;
}

int main(int argc, char** argv) {
  CLI::App app{
      "Fulgur runs DeepSeek-V3.2, GLM-5 and their relatives: sparse attention with a fused lightning "
      "indexer."};
  app.name("fulgur");
  app.set_version_flag("--version", "fulgur " FULGUR_VERSION);
  app.require_subcommand(1);
  app.fallthrough();
  bool verbose = false;
  app.add_flag("--verbose", verbose, "Print the chain of causes of an error");

  std::function<int()> chosen;
  for (const Command& command : kCommands) {
    CLI::App* sub = app.add_subcommand(std::string(command.name), command.summary);
    sub->parse_complete_callback([&chosen, run = command.declare(*sub)] { chosen = run; });
  }
  // CLI11 would only say that a subcommand is missing.
  if (argc > 1 && argv[1][0] != '-' &&
      std::ranges::find(kCommands, std::string_view(argv[1]), &Command::name) == kCommands.end()) {
    fmt::print(stderr, "There is no command '{}'; fulgur --help lists what there is.\n", argv[1]);
    return kExitUsage;
  }
  try {
    app.parse(argc, argv);
    return run_command(chosen, verbose);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kExitDone : kExitUsage;
  }
}

}  // namespace
}  // namespace fulgur::cli

int main(int argc, char** argv) { return fulgur::cli::main(argc, argv); }
