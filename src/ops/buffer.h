#pragma once

#include <cstddef>
#include <utility>

#include "ops/backend.h"

namespace fulgur {

/// Owned back-end memory that outlives a step: caches, tables.
class BackendBuffer {
 public:
  BackendBuffer() = default;
  BackendBuffer(const Backend& backend, size_t bytes)
      : backend_(&backend), data_(backend.allocate(bytes)), bytes_(bytes) {}
  ~BackendBuffer() {
    if (data_ != nullptr) backend_->release(data_);
  }
  BackendBuffer(BackendBuffer&& other) noexcept
      : backend_(other.backend_), data_(std::exchange(other.data_, nullptr)), bytes_(other.bytes_) {}
  BackendBuffer& operator=(BackendBuffer&& other) noexcept {
    std::swap(backend_, other.backend_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }

  [[nodiscard]] void* data() const { return data_; }
  [[nodiscard]] size_t bytes() const { return bytes_; }

 private:
  const Backend* backend_ = nullptr;
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace fulgur
