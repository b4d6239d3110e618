// The first GPU, for the tests that run on every back end.

#include <gtest/gtest.h>

#include <array>
#include <memory>
#include <string>

#include "kernels/cuda/cuda_backend.h"
#include "unit/ops/op_table.h"

namespace fulgur::test {
namespace {

/// The same table twice: with the kernels made for some shapes where they take a call, and without.
const Backend& plain_backend() {
  static const Backend backend = [] {
    Backend copy = *cuda_backend();
    copy.name = "cuda plain";
    return copy;
  }();
  return backend;
}

TEST(Cuda, HasADeviceToTest) {
  const CudaStatus status = cuda_status();
  if (!status.usable) GTEST_SKIP() << "No kernel was tested. " << status.why_not;
  RecordProperty("device", status.device);
}

}  // namespace

std::vector<Tested> tested_backends() {
  if (!cuda_status().usable) return {};
  return {{cuda_backend()}, {&plain_backend()}};
}

/// Streams are few and kept. A context's number of threads is its variant: without PDL, and twice with it.
cuda::Stream* stream_for(const Backend& backend, int threads) {
  static std::array<std::shared_ptr<cuda::Stream>, size_t{2} * Machine::kMostThreads> streams;
  const bool tuned = &backend != &plain_backend();
  auto& stream = streams[static_cast<size_t>(threads - 1 + (tuned ? 0 : Machine::kMostThreads))];
  if (stream == nullptr) stream = make_cuda_stream({.pdl = threads > 1, .tuned = tuned});
  return stream.get();
}

}  // namespace fulgur::test

// Without a device there are none.
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(OpTable);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(ExactOps);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(FaultySelection);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(FaultyAttention);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(FaultyRouting);
