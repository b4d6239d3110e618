// Device memory: a stream takes all of its own when it is made, and the selection no more of the arena than
// Context::index_scratch_bytes; it chooses the same with the least.

#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <string>
#include <tuple>
#include <vector>

#include "kernels/cuda/cuda_backend.h"
#include "unit/ops/op_table.h"

namespace fulgur::test {
namespace {

constexpr int kVariant = 2;  // of the context, cuda_backends.cc

class IndexScratch : public testing::TestWithParam<std::tuple<Tested, TableRow>> {};

TEST_P(IndexScratch, IsNotExceededAndChangesNoBit) {
  const auto& [tested, row] = GetParam();
  const auto selected_with = [&](int64_t extra) {
    Machine machine(*tested.backend);
    Random random(50);
    const std::unique_ptr<Case> c = row.make(machine, random, 0);
    Context& context = machine.context(kVariant);
    const int64_t least = c->least_index_scratch(*tested.backend);
    EXPECT_GT(least, 0);
    context.index_scratch_bytes = least + extra;
    machine.upload();
    c->run(context, 0, c->num_rows());
    machine.download();
    EXPECT_LE(context.arena->peak_bytes(), static_cast<size_t>(context.index_scratch_bytes));
    return machine.snapshot();
  };
  const auto expected = selected_with(kDefaultIndexScratchBytes);
  for (const int64_t extra : {0, 4000}) EXPECT_TRUE(selected_with(extra) == expected) << extra;
}

std::vector<std::tuple<Tested, TableRow>> selections() {
  auto lines = all_lines();
  std::erase_if(lines,
                [](const auto& line) { return !std::get<1>(line).name.starts_with("indexer_select_"); });
  return lines;
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(IndexScratch);  // without a device
INSTANTIATE_TEST_SUITE_P(BackEnds, IndexScratch, testing::ValuesIn(selections()),
                         [](const testing::TestParamInfo<IndexScratch::ParamType>& info) {
                           return short_name(std::get<0>(info.param)) + "_" + std::get<1>(info.param).name;
                         });

size_t free_device_bytes() {
  size_t free = 0;
  size_t total = 0;
  EXPECT_EQ(cudaMemGetInfo(&free, &total), cudaSuccess);
  return free;
}

TEST(CudaStream, TakesItsMemoryWhenItIsMade) {
  if (!cuda_status().usable) GTEST_SKIP() << "No stream was made.";
  const auto other = make_cuda_stream();  // what the first of a process loads is not counted
  const size_t before = free_device_bytes();
  const auto stream = make_cuda_stream();
  constexpr size_t kSharedBlock = size_t{2} << 20;  // small allocations may lie in what the process has
  EXPECT_GE(before - free_device_bytes() + kSharedBlock, device_bytes(*stream));
  EXPECT_GE(device_bytes(*stream), size_t{64} << 20);  // two workspaces of cuBLASLt
}

}  // namespace
}  // namespace fulgur::test
