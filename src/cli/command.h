#pragma once

#include <functional>
#include <string_view>

#include "cli/arguments.h"

namespace fulgur::cli {

/// Exit codes (docs/spec/commands.md, Common).
constexpr int kExitDone = 0;
constexpr int kExitFailed = 1;
constexpr int kExitUsage = 2;

/// What a command's file provides: declares options and help, and returns what runs once they are parsed.
/// That returns the exit code; an Error thrown from it becomes a sentence on stderr and exit code 1. A
/// usage_error is for usage that the declarations don't forbid (exit code 2).
using Declare = std::function<int()> (*)(Arguments& args);

struct Command {
  std::string_view name;
  const char* summary;
  Declare declare;
};

// One file a command; main.cc holds the table.
std::function<int()> declare_generate(Arguments& args);
std::function<int()> declare_chat(Arguments& args);
std::function<int()> declare_tokenize(Arguments& args);
std::function<int()> declare_eval(Arguments& args);
std::function<int()> declare_logits(Arguments& args);
std::function<int()> declare_inspect(Arguments& args);
std::function<int()> declare_convert(Arguments& args);
std::function<int()> declare_demo(Arguments& args);
std::function<int()> declare_bench(Arguments& args);
std::function<int()> declare_info(Arguments& args);

}  // namespace fulgur::cli
