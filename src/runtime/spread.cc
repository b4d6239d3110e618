#include "runtime/spread.h"

#include <algorithm>

namespace fulgur {

Spread Spread::of(std::vector<double> values) {
  std::ranges::sort(values);
  return {values[values.size() / 2], values.front(), values.back()};
}

}  // namespace fulgur
