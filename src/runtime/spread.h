#pragma once

#include <vector>

namespace fulgur {

/// What was measured several times.
struct Spread {
  double median = 0;
  double least = 0;
  double most = 0;

  /// Of at least one value.
  static Spread of(std::vector<double> values);
};

}  // namespace fulgur
