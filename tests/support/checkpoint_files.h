#pragma once

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "base/dtype.h"
#include "base/error.h"

namespace fulgur {

/// A folder of its own that goes with the test.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    static std::atomic<int> next{0};
    path_ = std::filesystem::temp_directory_path() / fmt::format("fulgur-{}-{}", getpid(), next++);
    std::filesystem::create_directories(path_);
  }
  ~TemporaryFolder() {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(std::string_view name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

/// As if it was written a while ago: opening a file that is new waits for the clock (FileStamp::take).
inline void make_old(const std::filesystem::path& path) {
  std::filesystem::last_write_time(path,
                                   std::filesystem::file_time_type::clock::now() - std::chrono::hours(1));
}

inline void write_bytes(const std::filesystem::path& path, std::string_view bytes) {
  std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  make_old(path);
}

inline std::string read_bytes(const std::filesystem::path& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

inline std::filesystem::path golden_folder(std::string_view name) {
  return std::filesystem::path(FULGUR_SOURCE_DIR) / "tests/golden/data" / name;
}

/// A safetensors file byte by byte: whatever header text, whatever data.
inline std::string raw_safetensors(std::string_view header, std::string_view data = {}) {
  const uint64_t length = header.size();
  std::string bytes(reinterpret_cast<const char*>(&length), sizeof(length));
  bytes += header;
  bytes += data;
  return bytes;
}

/// One tensor of a file that a test writes.
struct TestTensor {
  std::string name;
  std::string dtype;
  std::vector<int64_t> shape;
  std::string data;
};

/// A good file with these tensors in this order. `padding` spaces behind the header shift the data.
inline std::string good_safetensors(const std::vector<TestTensor>& tensors, size_t padding = 0) {
  std::string header;
  std::string data;
  for (const TestTensor& tensor : tensors) {
    const size_t begin = data.size();
    data += tensor.data;
    header += fmt::format(R"({}"{}":{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})",
                          header.empty() ? "{" : ",", tensor.name, tensor.dtype, fmt::join(tensor.shape, ","),
                          begin, data.size());
  }
  if (header.empty()) header += "{";
  header += "}";
  header.append(padding, ' ');
  return raw_safetensors(header, data);
}

/// 0, 1, 2, ... as bf16 or f32 (exact), from `first` on.
inline TestTensor counting(std::string name, DType dtype, std::vector<int64_t> shape, int first = 0) {
  int64_t count = 1;
  for (const int64_t dim : shape) count *= dim;
  std::string data;
  for (int64_t i = 0; i < count; ++i) {
    const auto value = static_cast<float>(first + i);
    if (dtype == DType::kBf16) {
      const Bf16 rounded = to_bf16(value);
      data.append(reinterpret_cast<const char*>(&rounded), sizeof(rounded));
    } else {
      data.append(reinterpret_cast<const char*>(&value), sizeof(value));
    }
  }
  return {std::move(name), std::string(fulgur::name(dtype)), std::move(shape), std::move(data)};
}

/// The problems that `action` throws; empty if it throws no Error.
template <typename Action>
std::vector<Problem> problems_of(Action action) {
  try {
    action();
  } catch (const Error& error) {
    return error.problems();
  }
  return {};
}

/// "kind tensor", one a line, sorted: what a test asks of problems, whatever their wording.
inline std::string summary(const std::vector<Problem>& problems) {
  std::vector<std::string> lines;
  for (const Problem& problem : problems) {
    lines.push_back(
        fmt::format("{}{}{}", name(problem.kind), problem.tensor.empty() ? "" : " ", problem.tensor));
  }
  std::sort(lines.begin(), lines.end());
  return fmt::format("{}", fmt::join(lines, "\n"));
}

}  // namespace fulgur
