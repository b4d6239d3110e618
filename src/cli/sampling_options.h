#pragma once

#include <CLI/CLI.hpp>

#include "ops/sample.h"

namespace fulgur::cli {

/// --temperature, --top-k, --top-p, --min-p, --seed. Greedy by default.
void add_sampling_options(CLI::App& app, SamplingParams& sampling);

}  // namespace fulgur::cli
