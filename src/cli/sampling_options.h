#pragma once

#include "cli/arguments.h"
#include "fulgur/engine.h"

namespace fulgur::cli {

/// --temperature, --top-k, --top-p, --min-p, the penalties, --logit-bias, --seed. Greedy by default.
void add_sampling_options(Arguments& args, Sampling& sampling);

}  // namespace fulgur::cli
