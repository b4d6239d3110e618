// fulgur info

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <initializer_list>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/available_memory.h"
#include "base/number_field.h"
#include "cli/command.h"
#include "cli/streams.h"
#include "cli/threads_option.h"
#include "runtime/choose_backend.h"

namespace fulgur::cli {
namespace {

/// As /proc/cpuinfo has it; empty where it doesn't say.
std::string cpu_name() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);) {
    if (!line.starts_with("model name")) continue;
    const size_t begin = line.find_first_not_of(" \t:", std::string_view("model name").size());
    return begin == std::string::npos ? "" : line.substr(begin);
  }
  return "";
}

std::optional<double> gibibytes(std::optional<uint64_t> amount, uint64_t unit) {
  if (!amount) return std::nullopt;
  return static_cast<double>(*amount) * static_cast<double>(unit) / (1 << 30);
}

/// Where /proc doesn't say, neither do we.
std::string known(const std::string& text) { return text.empty() ? "unknown" : text; }
std::string known(const std::optional<double>& gib) {
  return gib ? fmt::format("{:.1f} GiB", *gib) : "unknown";
}
nlohmann::json json_of(const std::string& text) {
  return text.empty() ? nlohmann::json() : nlohmann::json(text);
}
nlohmann::json json_of(const std::optional<double>& gib) {
  return gib ? nlohmann::json(*gib) : nlohmann::json();
}

std::vector<std::string> present(std::initializer_list<std::string> texts) {
  std::vector<std::string> kept;
  std::ranges::copy_if(texts, std::back_inserter(kept),
                       [](const std::string& text) { return !text.empty(); });
  return kept;
}

struct Info {
  std::string cpu = cpu_name();
  int threads = num_threads(0);  // what commands take by default
  InstructionSets isas = instruction_sets();
  Gpu gpu = fulgur::gpu();
  std::optional<double> memory_gib = gibibytes(find_number("/proc/meminfo", "MemTotal:"), 1024);
  std::optional<double> available_gib = gibibytes(available_memory_bytes(), 1);
};

int print_info(bool json) {
  const Info info;
  if (json) {
    const nlohmann::ordered_json object = {{"version", FULGUR_VERSION},
                                           {"compiler", FULGUR_COMPILER},
                                           {"build_type", FULGUR_BUILD_TYPE},
                                           {"cpu", known(info.cpu)},
                                           {"threads", info.threads},
                                           {"isas", info.isas.supported},
                                           {"isa", info.isas.chosen},
                                           {"cuda",
                                            {{"built", info.gpu.built},
                                             {"device", json_of(info.gpu.device)},
                                             {"why_not", json_of(info.gpu.why_not)}}},
                                           {"memory_gib", json_of(info.memory_gib)},
                                           {"available_gib", json_of(info.available_gib)}};
    print_out("{}\n", object.dump());
    return kExitDone;
  }
  print_out("fulgur     {} ({}, {})\n", FULGUR_VERSION, FULGUR_COMPILER, FULGUR_BUILD_TYPE);
  print_out("cpu        {}, {} threads\n", known(info.cpu), info.threads);
  print_out("isa        {} (this CPU has {})\n", info.isas.chosen, fmt::join(info.isas.supported, ", "));
  print_out("cuda       {}\n", fmt::join(present({info.gpu.device, info.gpu.why_not}), "; "));
  print_out("memory     {}, {} available\n", known(info.memory_gib), known(info.available_gib));
  return kExitDone;
}

}  // namespace

std::function<int()> declare_info(Arguments& args) {
  auto json = std::make_shared<bool>(false);
  args.add_flag("--json", *json, "Print one JSON object");
  args.footer(
      "Examples:\n"
      "  fulgur info\n"
      "  FULGUR_ISA=scalar fulgur info --json");
  return [json] { return print_info(*json); };
}

}  // namespace fulgur::cli
