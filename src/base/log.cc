#include "base/log.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <memory>

namespace fulgur {
namespace {

spdlog::logger& logger() {
  static const std::unique_ptr<spdlog::logger> made = [] {
    auto log = std::make_unique<spdlog::logger>("fulgur", std::make_shared<spdlog::sinks::stderr_sink_mt>());
    log->set_pattern("%v");  // a person reads it: no time, no level
    log->set_error_handler([](const std::string&) {});
    return log;
  }();
  return *made;
}

}  // namespace

void log_notice(std::string_view line) { logger().info(line); }
void log_detail(std::string_view line) { logger().debug(line); }
void set_log_details(bool wanted) { logger().set_level(wanted ? spdlog::level::debug : spdlog::level::info); }

}  // namespace fulgur
