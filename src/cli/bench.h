#pragma once

#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "cli/arguments.h"
#include "runtime/spread.h"

namespace fulgur::cli {

// One file for each thing that `fulgur bench` times, declared as commands are (cli/command.h).
std::function<int()> declare_bench_engine(Arguments& args);
std::function<int()> declare_bench_indexer(Arguments& args);

/// "12.34 (11.02-13.70)"
std::string text(const Spread& spread, int digits);
nlohmann::ordered_json json_of(const Spread& spread);

}  // namespace fulgur::cli
