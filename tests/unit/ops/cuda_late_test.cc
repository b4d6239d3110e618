// Programmatic dependent launch: an op's kernels may start before the kernel that computes their inputs has
// ended. Nothing that it computes may be read before.

#include "unit/ops/cuda_late.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "ops/buffer.h"
#include "unit/ops/op_table.h"

namespace fulgur::test {
namespace {

constexpr int kWithPdl = 2;  // the context's variant, cuda_backends.cc

/// A line of the table in buffers of its own, uploaded.
struct Prepared {
  Prepared(const Backend& backend, const TableRow& row, uint64_t seed)
      : machine(backend), random(seed), made(row.make(machine, random, 0)) {
    machine.upload();
  }
  void run(Context& context) const { made->run(context, 0, made->num_rows()); }
  void run_and_download() {
    run(machine.context(kWithPdl));
    machine.download();
  }

  Machine machine;
  Random random;
  std::unique_ptr<Case> made;
};

class LateInputs : public testing::TestWithParam<std::tuple<Tested, TableRow>> {
 protected:
  /// Runs the line with its inputs there, and then behind late copies of them; `between` them an op of its
  /// own buffers, if any.
  void give_the_same_bits(const TableRow* between) const;
};

void LateInputs::give_the_same_bits(const TableRow* between) const {
  const auto& [tested, row] = GetParam();
  const Backend& backend = *tested.backend;
  std::optional<Prepared> op_between;
  if (between != nullptr) op_between.emplace(backend, *between, 41);
  Prepared line(backend, row, 40);
  Machine& machine = line.machine;
  line.run_and_download();
  const auto in_time = machine.snapshot();

  machine.upload();
  struct Late {
    std::byte* to;
    size_t bytes;
  };
  std::vector<BackendBuffer> staged;
  std::vector<Late> late;
  for (const auto& buffer : machine.buffers()) {
    for (const Buffer::Bytes& range : buffer->late()) {
      staged.emplace_back(backend, range.count);
      backend.upload(staged.back().data(), buffer->bytes_before().data() + range.first, range.count);
      late.push_back({buffer->device_bytes() + range.first, range.count});
      const std::vector<std::byte> poison(range.count, std::byte{0xff});  // NaN, or position -1
      backend.upload(late.back().to, poison.data(), poison.size());
    }
  }
  ASSERT_FALSE(late.empty());
  for (size_t i = 0; i < late.size(); ++i) {
    queue_late_copy(machine.context(kWithPdl), late[i].to, static_cast<const std::byte*>(staged[i].data()),
                    late[i].bytes);
  }
  if (op_between) op_between->run(machine.context(kWithPdl));
  line.run_and_download();
  EXPECT_TRUE(machine.snapshot() == in_time);
}

TEST_P(LateInputs, GiveTheSameBits) { give_the_same_bits(nullptr); }

/// Kernels of rows that need no scores have nothing to wait for but what their successors need.
TEST_P(LateInputs, GiveTheSameBitsBehindKernelsThatLeaveEarly) {
  for (const TableRow& between : selection_rows_that_leave_early()) give_the_same_bits(&between);
}

/// Nor may anything be written before: what stood there may still be read. Blocks that have nothing to
/// compute write, too.
TEST_P(LateInputs, WriteNothingWhileTheKernelAheadReads) {
  const auto& [tested, row] = GetParam();
  const Backend& backend = *tested.backend;
  Prepared line(backend, row, 42);
  Machine& machine = line.machine;
  line.run_and_download();
  std::vector<const Buffer*> written;
  for (const auto& buffer : machine.buffers()) {
    if (buffer->bytes_after() != buffer->bytes_before()) written.push_back(buffer.get());
  }
  ASSERT_FALSE(written.empty());

  machine.upload();
  constexpr size_t kMost = 16384;  // the copy is a slow one
  const auto bytes_of = [kMost](const Buffer& buffer) {
    return std::min(kMost, buffer.bytes_before().size());
  };
  std::vector<BackendBuffer> read;
  for (const Buffer* buffer : written) read.emplace_back(backend, bytes_of(*buffer));
  for (size_t i = 0; i < written.size(); ++i) {
    queue_late_copy(machine.context(kWithPdl), static_cast<std::byte*>(read[i].data()),
                    written[i]->device_bytes(), bytes_of(*written[i]));
  }
  line.run_and_download();
  for (size_t i = 0; i < written.size(); ++i) {
    std::vector<std::byte> bytes(bytes_of(*written[i]));
    backend.download(bytes.data(), read[i].data(), bytes.size());
    EXPECT_TRUE(std::ranges::equal(bytes, std::span(written[i]->bytes_before()).first(bytes.size())))
        << "of what was written, number " << i;
  }
}

std::vector<std::tuple<Tested, TableRow>> late_lines() {
  auto lines = all_lines();
  for (const Tested& tested : tested_backends()) {
    lines.emplace_back(tested, long_selection_row());
    for (const TableRow& row : selection_rows_that_leave_early()) lines.emplace_back(tested, row);
  }
  return lines;
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(LateInputs);  // without a device
INSTANTIATE_TEST_SUITE_P(BackEnds, LateInputs, testing::ValuesIn(late_lines()),
                         [](const testing::TestParamInfo<LateInputs::ParamType>& info) {
                           return short_name(std::get<0>(info.param)) + "_" + std::get<1>(info.param).name;
                         });

}  // namespace
}  // namespace fulgur::test
