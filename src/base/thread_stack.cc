#include "base/thread_stack.h"

#include <array>

namespace fulgur {
namespace {

constexpr size_t kLeastPageBytes = 4096;

}  // namespace

[[gnu::noinline]] void settle_stack() {
  std::array<volatile char, kKernelStackBytes> stack;
  // From the top, as it grows: a page is given only near those that are there.
  for (size_t below = 1; below <= stack.size(); below += kLeastPageBytes) stack[stack.size() - below] = 0;
}

}  // namespace fulgur
