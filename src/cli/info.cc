// fulgur info

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <fstream>
#include <initializer_list>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cli/command.h"
#include "cli/streams.h"
#include "cli/threads_option.h"
#include "runtime/choose_backend.h"

namespace fulgur::cli {
namespace {

/// The value of the first line `key : value` of a /proc file; empty where there is none.
std::string proc_value(const char* file, std::string_view key) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    if (!line.starts_with(key)) continue;
    const size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    const size_t begin = line.find_first_not_of(" \t", colon + 1);
    return begin == std::string::npos ? "" : line.substr(begin);
  }
  return "";
}

/// Of an amount as /proc has it ("24689764 kB"); nothing where it isn't one.
std::optional<double> gibibytes(std::string_view amount) {
  uint64_t kibibytes = 0;
  const auto [rest, error] = std::from_chars(amount.data(), amount.data() + amount.size(), kibibytes);
  if (error != std::errc() || std::string_view(rest, amount.data() + amount.size()) != " kB")
    return std::nullopt;
  return static_cast<double>(kibibytes) / (1 << 20);
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
  std::string cpu = proc_value("/proc/cpuinfo", "model name");
  int threads = num_threads(0);  // what commands take by default
  InstructionSets isas = instruction_sets();
  Gpu gpu = fulgur::gpu();
  std::optional<double> memory_gib = gibibytes(proc_value("/proc/meminfo", "MemTotal"));
  std::optional<double> available_gib = gibibytes(proc_value("/proc/meminfo", "MemAvailable"));
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
