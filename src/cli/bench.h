#pragma once

#include <functional>

#include "cli/arguments.h"

namespace fulgur::cli {

// One file for each thing that `fulgur bench` times, declared as commands are (cli/command.h).
std::function<int()> declare_bench_engine(Arguments& args);
std::function<int()> declare_bench_indexer(Arguments& args);

}  // namespace fulgur::cli
