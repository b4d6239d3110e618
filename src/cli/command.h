#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string_view>

namespace fulgur::cli {

/// Exit codes (docs/spec/commands.md, Common).
constexpr int kExitDone = 0;
constexpr int kExitFailed = 1;
constexpr int kExitUsage = 2;

/// What a command's file provides: declares options and help on its subcommand and returns what runs once
/// they are parsed. That returns the exit code; an Error thrown from it becomes a sentence on stderr and exit
/// code 1. Throw CLI::ValidationError for usage that the parser can't see (exit code 2).
using Declare = std::function<int()> (*)(CLI::App& app);

struct Command {
  std::string_view name;
  const char* summary;
  Declare declare;
};

// One file a command; main.cc holds the table.
std::function<int()> declare_generate(CLI::App& app);
std::function<int()> declare_chat(CLI::App& app);
std::function<int()> declare_tokenize(CLI::App& app);
std::function<int()> declare_eval(CLI::App& app);
std::function<int()> declare_logits(CLI::App& app);
std::function<int()> declare_inspect(CLI::App& app);
std::function<int()> declare_demo(CLI::App& app);
std::function<int()> declare_info(CLI::App& app);

}  // namespace fulgur::cli
