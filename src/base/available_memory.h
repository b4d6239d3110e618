#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

namespace fulgur {

/// Bytes that this process could still use without swapping: what the system has left, or less where a
/// control group of the process (version 1 or 2, or one above it) or its own limits (ulimit -v, -d) allow
/// less. Files in the page cache don't count as taken. Empty where nothing says.
std::optional<uint64_t> available_memory_bytes(const std::filesystem::path& proc = "/proc",
                                               const std::filesystem::path& cgroups = "/sys/fs/cgroup");

/// What the process's own limits leave it of address space, used or not. Empty where there are none.
std::optional<uint64_t> available_address_space_bytes(const std::filesystem::path& proc = "/proc");

}  // namespace fulgur
