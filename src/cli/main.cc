// The fulgur program: a table of commands, and what every command does with errors.

#include <fmt/format.h>
#include <malloc.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cstdlib>
#include <exception>
#include <functional>
#include <new>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "base/available_memory.h"
#include "base/error.h"
#include "base/log.h"
#include "base/pending_name.h"
#include "base/process_memory.h"
#include "cli/command.h"
#include "cli/streams.h"

namespace fulgur::cli {
namespace {

constexpr std::array kCommands = {
    Command{"generate", "Continue a prompt", declare_generate},
    Command{"chat", "Talk with the model", declare_chat},
    Command{"tokenize", "Text to token ids, and back", declare_tokenize},
    Command{"eval", "Accuracy of answers, or likelihood of text, over a file of rows", declare_eval},
    Command{"logits", "Write the model's numbers to a safetensors file", declare_logits},
    Command{"inspect", "What a checkpoint holds, how it would load, and what is wrong with it",
            declare_inspect},
    Command{"convert", "Rewrite a checkpoint: another storage form, the indexer's projection fused or not",
            declare_convert},
    Command{"demo",
            "Find a number in 3,889 tokens with the bundled model, and compare the indexer projections",
            declare_demo},
    Command{"bench", "Time a model's requests, or the indexer's kernels on a GPU", declare_bench},
    Command{"info", "Show this machine as Fulgur sees it: CPU, instruction sets, memory, build",
            declare_info},
};

/// What is wrong with arguments that no option took.
std::string unexpected(const CLI::App& app) {
  std::vector<std::string> extra = app.remaining(true);
  std::erase(extra, "--");
  std::string command = "fulgur";
  for (const CLI::App* at = &app; !at->get_subcommands().empty();) {  // those that were given
    at = at->get_subcommands().front();
    command += " " + at->get_name();
  }
  const auto option =
      std::ranges::find_if(extra, [](const std::string& text) { return text.size() > 1 && text[0] == '-'; });
  if (option != extra.end())
    return fmt::format("{0} has no option {1}; {0} --help lists what it has.\n", command, *option);
  return fmt::format(
      "{} takes no more arguments: '{}' is one too many. A text of several words stands in quotes.\n",
      command, extra.empty() ? "--" : extra.front());
}

/// Parses and runs; `verbose` and the name of the command are known as soon as they are parsed.
int run(int argc, char** argv, bool& verbose, std::string_view& command_name) {
  CLI::App app{
      "Fulgur runs DeepSeek-V3.2, GLM-5 and their relatives: sparse attention with a fused lightning "
      "indexer."};
  app.name("fulgur");
  app.set_version_flag("--version", "fulgur " FULGUR_VERSION);
  app.require_subcommand(1);
  app.fallthrough();
  app.add_flag("--verbose", verbose, "Say on stderr what is done, and the causes of an error");

  std::function<int()> chosen;
  for (const Command& command : kCommands) {
    CLI::App* sub = app.add_subcommand(std::string(command.name), command.summary);
    Arguments args(*sub);
    sub->parse_complete_callback([&, name = command.name, run = command.declare(args)] {
      chosen = run;
      command_name = name;
    });
  }
  // CLI11 would only say that a subcommand is missing.
  if (argc > 1 && argv[1][0] != '-' &&
      std::ranges::find(kCommands, std::string_view(argv[1]), &Command::name) == kCommands.end()) {
    print_log("There is no command '{}'; fulgur --help lists what there is.\n", argv[1]);
    return kExitUsage;
  }
  if (argc == 1) {
    write_log(app.help());
    return kExitUsage;
  }
  try {
    app.parse(argc, argv);
    set_log_details(verbose);
    const int status = chosen();
    log_detail(fmt::format("memory: {:.1f} MB at the peak", static_cast<double>(peak_rss_bytes()) / 1e6));
    return status;
  } catch (const CLI::ExtrasError&) {
    write_log(unexpected(app));
    return kExitUsage;
  } catch (const CLI::ParseError& error) {  // --help and --version too
    std::ostringstream out;
    std::ostringstream err;
    const int status = app.exit(error, out, err);
    write_out(out.str());
    write_log(err.str());
    return status == 0 ? kExitDone : kExitUsage;
  }
}

void write_out_of_memory(std::string_view command) noexcept {
  for (const std::string_view part :
       {std::string_view("There is not enough memory for what fulgur"),
        std::string_view(command.empty() ? "" : " "), command,
        std::string_view(" was doing.\n"
                         "  expected  memory for what it works on\n"
                         "  found     an allocation that the system, or a limit (ulimit), refused\n"
                         "  to do     raise the limit, end what else takes memory, or ask for less\n")}) {
    write_log(part);
  }
}

/// Destructors of the JSON library allocate: where that fails, no handler is reached.
[[noreturn]] void on_terminate() noexcept {
  try {
    if (const std::exception_ptr error = std::current_exception()) std::rethrow_exception(error);
  } catch (const std::bad_alloc&) {
    remove_pending_names();
    write_out_of_memory({});
    _exit(kExitFailed);
  } catch (...) {
  }
  std::abort();
}

/// malloc reserves 64 MB of address space for each thread, where it gets them, and else maps each allocation
/// by itself: under a limit (ulimit -v) it would be chance what fits.
void share_arena_if_limited() {
  // NOLINTNEXTLINE(concurrency-mt-unsafe): there is no other thread yet
  if (available_address_space_bytes()) mallopt(M_ARENA_MAX, 1);
}

/// What every command does with failures. Nothing here may throw, so nothing is formatted.
int main(int argc, char** argv) {
  prepare_streams();
  std::set_terminate(on_terminate);
  bool verbose = false;
  std::string_view command_name;
  try {
    share_arena_if_limited();
    const int status = run(argc, argv, verbose, command_name);
    flush_output();
    return status;
  } catch (const OutputClosed&) {
    end_by_sigpipe();
  } catch (const Error& error) {
    write_log(error.what());
    write_log("\n");
    if (!verbose) return kExitFailed;
    for (const std::string& context : error.context()) {
      for (const std::string_view part :
           {std::string_view("  while "), std::string_view(context), std::string_view("\n")}) {
        write_log(part);
      }
    }
  } catch (const std::bad_alloc&) {
    write_out_of_memory(command_name);
  } catch (const std::exception& error) {
    write_log("This is a mistake in Fulgur, please report it: ");
    write_log(error.what());
    write_log(".\n");
  }
  return kExitFailed;
}

}  // namespace
}  // namespace fulgur::cli

int main(int argc, char** argv) { return fulgur::cli::main(argc, argv); }
