#include "cli/threads_option.h"

#include <algorithm>
#include <thread>

namespace fulgur::cli {

Option add_threads_option(Arguments& args, int& threads, const std::string& help) {
  Option option = args.add_option("--threads", threads, help);
  option.integer_range(1, 1024).type_name("N");
  return option;
}

int num_threads(int asked) {
  if (asked > 0) return asked;
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));  // 0 where it isn't known
}

}  // namespace fulgur::cli
