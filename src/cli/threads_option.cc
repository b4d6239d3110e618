#include "cli/threads_option.h"

#include "base/available_cpus.h"
#include "fulgur/engine.h"

namespace fulgur::cli {

Option add_threads_option(Arguments& args, int& threads, const std::string& help) {
  Option option = args.add_option("--threads", threads, help);
  option.integer_range(1, EngineLimits::kThreads).type_name("N");
  return option;
}

int num_threads(int asked) { return asked > 0 ? asked : available_cpus(); }

}  // namespace fulgur::cli
