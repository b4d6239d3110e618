#pragma once

#include <CLI/CLI.hpp>

namespace fulgur::cli {

// Checks that CLI11 doesn't have: its Range lets NaN pass, and its unsigned integers wrap and saturate.

/// A number, not NaN or infinite.
CLI::Validator finite_number();
/// An integer from 0 to 2^64 - 1.
CLI::Validator seed();
/// Text in UTF-8, not empty.
CLI::Validator text();

}  // namespace fulgur::cli
