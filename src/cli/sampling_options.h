#pragma once

#include "cli/arguments.h"
#include "ops/sample.h"

namespace fulgur::cli {

/// --temperature, --top-k, --top-p, --min-p, --seed. Greedy by default.
void add_sampling_options(Arguments& args, SamplingParams& sampling);

}  // namespace fulgur::cli
