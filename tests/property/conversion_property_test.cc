// What must hold of any checkpoint that is converted, checked on draws.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "model/conversion.h"
#include "model/load.h"
#include "property/any_checkpoint.h"
#include "property/check_load.h"
#include "support/checkpoint_files.h"

namespace fulgur::property {
namespace {

using reference::Table;

ConversionRequest request_of(const Draw& draw) {
  ConversionRequest request{.num_threads = 2};
  constexpr BlockScales kScales[] = {BlockScales::kF32, BlockScales::kF32Pow2, BlockScales::kE8m0};
  if (draw.conversion.target > 0) {
    const TargetForm form = kTargetForms[draw.conversion.target - 1];
    const bool fp8 = form == TargetForm::kFp8Block;
    request.form = form;
    if (fp8 && draw.conversion.scales < 3) request.scales = kScales[draw.conversion.scales];
  }
  constexpr Spelling kSpellings[] = {Spelling::kAsStored, Spelling::kFused, Spelling::kSeparate};
  if (draw.model.sparse()) request.spelling = kSpellings[draw.conversion.spelling];
  request.shard_bytes = draw.other_shards.num_shards == 1 ? kDefaultShardBytes : 100'000;
  return request;
}

double largest_in(const Table& table, int64_t first, int64_t count) {
  double largest = 0;
  for (int64_t i = first; i < std::min<int64_t>(first + count, static_cast<int64_t>(table.data.size())); ++i)
    largest = std::max(largest, std::abs(table.data[static_cast<size_t>(i)].value));
  return largest;
}

/// How far conversion may carry the elements of a parameter.
class Tolerance {
 public:
  /// `stored`: what the parameter is made from, all of it.
  Tolerance(const ConversionRequest& request, const Parameter& parameter, const Table& expected,
            const Table& stored)
      : request_(request),
        expected_(expected),
        made_(parameter.spellings.size() == 2),
        vector_(parameter.spellings[0][0].shape.size() == 1),
        largest_(largest_in(stored, 0, stored.rows * stored.cols)) {}

  [[nodiscard]] double at(int64_t i) const {
    const reference::Real& e = expected_.data[static_cast<size_t>(i)];
    const double to_bf16 = std::abs(e.value) * 0x1p-8 + e.error;
    if (vector_) return e.error;
    if (!request_.form) return made_ ? to_bf16 : e.error;  // made of other halves: in f32 or bf16
    switch (*request_.form) {
      case TargetForm::kBf16:
        return to_bf16;
      case TargetForm::kFp8Block:
        // Half of the last of 3 bits. Below the normal codes half of 2^-9 scales, and the block's largest
        // takes at least 224 of them.
        return std::abs(e.value) / 16 + largest_ / 224 * 0x1p-10 + to_bf16;
      default:
        // Half of the distance between 4 and 6 of 6, and the rounding of the group's scale; the least scale
        // is 2^-9 of a factor of which the largest value takes 6 * 448.
        return largest_in(expected_, i / kGroup * kGroup, kGroup) * (1.0 / 6 + 1.0 / 16) +
               largest_ / 448 * 0x1p-9 + to_bf16;
    }
  }

 private:
  static constexpr int64_t kGroup = 16;
  const ConversionRequest& request_;
  const Table& expected_;
  bool made_;  // the indexer's projection
  bool vector_;
  double largest_;
};

TEST(AnyCheckpoint, KeepsItsValuesWhenItIsConverted) {
  expect_holds([](const Draw& draw) {
    const StoredModel stored = store(draw.model, draw.store, 0);
    const TemporaryFolder folder;
    write_files(shard(stored, draw.shards), stored, folder.path());
    const ConversionRequest request = request_of(draw);
    const std::filesystem::path converted = folder / "converted";
    convert_folder(folder.path(), converted, request);
    for_each_weight(
        stored, converted, kAllForms, [&](const Parameter& parameter, const Table& e, const Table& f) {
          const bool part = parameter.arrangement != Arrangement::kRows;  // of kv_b_proj
          const Table& whole = part ? stored.tables.at(parameter.spellings[0][0].tensor) : e;
          const Tolerance tolerance(request, parameter, e, whole);
          for (size_t i = 0; i < e.data.size(); ++i) {
            const double off = std::abs(f.data.at(i).value - e.data[i].value);
            if (off <= tolerance.at(static_cast<int64_t>(i))) continue;
            fail(fmt::format("{}[{}] is {}, not {}", parameter.name, i, f.data[i].value, e.data[i].value));
          }
        });
  });
}

}  // namespace
}  // namespace fulgur::property
