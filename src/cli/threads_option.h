#pragma once

#include <string>

#include "cli/arguments.h"

namespace fulgur::cli {

/// --threads N; `threads` stays 0 where it isn't given: num_threads() says how many that are.
Option add_threads_option(Arguments& args, int& threads, const std::string& help);
/// As many as asked for; for 0 one for each CPU that is really there for this process.
int num_threads(int asked);

}  // namespace fulgur::cli
