// fulgur info

#include <fmt/format.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "cli/command.h"
#include "kernels/cpu/cpu_backend.h"

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

double gibibytes(std::string_view kibibytes) { return std::stod(std::string(kibibytes)) / (1 << 20); }

struct Info {
  std::string cpu = proc_value("/proc/cpuinfo", "model name");
  unsigned threads = std::thread::hardware_concurrency();
  std::vector<std::string> isas;
  std::string chosen_isa{name(choose_isa())};
  double memory_gib = gibibytes(proc_value("/proc/meminfo", "MemTotal"));
  double available_gib = gibibytes(proc_value("/proc/meminfo", "MemAvailable"));

  Info() {
    for (const Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16, Isa::kAmx}) {
      if (isa_supported(isa)) isas.emplace_back(name(isa));
    }
  }
};

int print_info(bool json) {
  const Info info;
  if (json) {
    const nlohmann::ordered_json object = {
        {"version", FULGUR_VERSION}, {"compiler", FULGUR_COMPILER},   {"build_type", FULGUR_BUILD_TYPE},
        {"cpu", info.cpu},           {"threads", info.threads},       {"isas", info.isas},
        {"isa", info.chosen_isa},    {"memory_gib", info.memory_gib}, {"available_gib", info.available_gib}};
    fmt::print("{}\n", object.dump());
    return kExitDone;
  }
  fmt::print("fulgur     {} ({}, {})\n", FULGUR_VERSION, FULGUR_COMPILER, FULGUR_BUILD_TYPE);
  fmt::print("cpu        {}, {} threads\n", info.cpu, info.threads);
  fmt::print("isa        {} (this CPU has {})\n", info.chosen_isa, fmt::join(info.isas, ", "));
  fmt::print("memory     {:.1f} GiB, {:.1f} GiB available\n", info.memory_gib, info.available_gib);
  return kExitDone;
}

}  // namespace

std::function<int()> declare_info(CLI::App& app) {
  auto json = std::make_shared<bool>(false);
  app.add_flag("--json", *json, "Print one JSON object");
  app.footer(
      "Examples:\n"
      "  fulgur info\n"
      "  FULGUR_ISA=scalar fulgur info --json");
  return [json] { return print_info(*json); };
}

}  // namespace fulgur::cli
