#include "checkpoint/convert_module.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <optional>
#include <string>

#include "checkpoint/conversion_refusals.h"
#include "checkpoint/dequantize.h"
#include "checkpoint/find_value.h"
#include "checkpoint/load_scales.h"
#include "checkpoint/quantize.h"
#include "checkpoint/scaled_values.h"
#include "checkpoint/stored_rows.h"

namespace fulgur {
namespace {

constexpr int64_t kSlabBytes = int64_t{32} << 20;
constexpr int64_t kChunkElements = int64_t{1} << 18;  // of a thread: 1 MiB of f32

/// Whether a power of two can stand for it without a change: what an e8m0 holds.
bool is_power_of_two(float scale) {
  int exponent = 0;
  return scale > 0 && std::frexp(scale, &exponent) == 0.5F && exponent >= -126;
}
uint8_t to_e8m0(float power_of_two) { return static_cast<uint8_t>(std::ilogb(power_of_two) + 127); }

std::span<const std::byte> bytes_of(const auto& values, int64_t count) {
  return std::as_bytes(std::span(values.data(), static_cast<size_t>(count)));
}

}  // namespace

/// The computed tensors of one module, in slabs of rows.
class ModuleConverter::Computation {
 public:
  Computation(const ConvertedModule& module, const Catalog& catalog, ThreadTeam& team, const TensorSink& sink)
      : module_(module), catalog_(catalog), team_(team), sink_(sink), cols_(module.cols) {
    for (const SourceRows& rows : module.sources) stored_.push_back(stored_rows(team, catalog, rows));
  }

  void run() {
    switch (module_.form->form) {
      case WeightForm::kFp8:
        write_fp8();
        break;
      case WeightForm::kNvfp4:
        write_nvfp4();
        break;
      default:
        write_plain();
    }
    if (!any_left_) refuse_lost_matrix();
  }

 private:
  /// Calls body(first, count, member) for runs of `grain` rows of [first, end), on the team.
  template <typename Body>
  void for_rows(int64_t first, int64_t end, int64_t grain, Body body) {
    std::atomic<int64_t> next{first};
    team_.run([&](int member) {
      for (int64_t row = next.fetch_add(grain); row < end; row = next.fetch_add(grain))
        body(row, std::min(grain, end - row), member);
    });
    refuse_bad_value();
  }
  /// As many rows of a thread as are worth a hand-out; decoding FP8 goes by blocks.
  [[nodiscard]] int64_t chunk_rows() const { return std::max<int64_t>(1, kChunkElements / cols_); }
  [[nodiscard]] int64_t slab_rows(int64_t row_bytes, int64_t grain) const {
    return std::max<int64_t>(1, kSlabBytes / row_bytes / grain) * grain;
  }

  /// Rows [first, first + count) of the module, as `to`.
  void values(int64_t first, int64_t count, WeightForm to, std::byte* result) const {
    for (const StoredRows& part : stored_) {
      const int64_t begin = std::clamp<int64_t>(first, 0, part.weight.rows);
      const int64_t end = std::clamp<int64_t>(first + count, 0, part.weight.rows);
      if (begin < end) {
        convert_rows(part.weight.take_rows(begin, end - begin), to, result);
        result += (end - begin) * row_bytes(to, cols_);
      }
      first -= part.weight.rows;
    }
  }
  /// The same as f32, checked: empty where one of them is not finite.
  std::optional<float> finite_values(int64_t first, int64_t count, std::vector<float>& result) {
    values(first, count, WeightForm::kF32, reinterpret_cast<std::byte*>(result.data()));
    const std::span used(result.data(), static_cast<size_t>(count * cols_));
    const std::optional<float> largest = largest_magnitude(used);
    if (!largest) {
      const auto bad =
          std::find_if(used.begin(), used.end(), [](float value) { return !std::isfinite(value); });
      note_bad(first * cols_ + (bad - used.begin()));
    }
    return largest;
  }
  std::vector<std::vector<float>> scratch(int64_t rows) const {
    return {static_cast<size_t>(team_.size()), std::vector<float>(static_cast<size_t>(rows * cols_))};
  }

  void write_plain() {
    const WeightForm to = module_.form->form;
    const int64_t width = row_bytes(to, cols_);
    const int64_t grain = std::max<int64_t>(1, chunk_rows() / kFp8Block) * kFp8Block;
    const int64_t slab = slab_rows(width, grain);
    std::vector<std::byte> result(static_cast<size_t>(std::min(slab, module_.rows) * width));
    for (int64_t row = 0; row < module_.rows; row += slab) {
      const int64_t end = std::min(module_.rows, row + slab);
      for_rows(row, end, grain, [&](int64_t first, int64_t count, int) {
        std::byte* at = result.data() + (first - row) * width;
        values(first, count, to, at);
        check_plain(first, count, to, at);
        look_for_any(to, at, count * width);
      });
      sink_(0, static_cast<uint64_t>(row * width), bytes_of(result, (end - row) * width));
    }
  }

  void check_plain(int64_t first, int64_t count, WeightForm form, const std::byte* values) {
    if (const auto bad = first_not_finite(stored_dtype(form), values, count * cols_))
      note_bad(first * cols_ + *bad);
  }

  void write_fp8() {
    const int64_t grid_cols = (cols_ + kFp8Block - 1) / kFp8Block;
    const int64_t slab = slab_rows(cols_, kFp8Block);
    auto buffers = scratch(kFp8Block);
    const int64_t most_rows = std::min(slab, module_.rows);
    std::vector<uint8_t> codes(static_cast<size_t>(most_rows * cols_));
    std::vector<float> scales(static_cast<size_t>((most_rows + kFp8Block - 1) / kFp8Block * grid_cols));
    for (int64_t row = 0; row < module_.rows; row += slab) {
      const int64_t end = std::min(module_.rows, row + slab);
      for_rows(row, end, kFp8Block, [&](int64_t first, int64_t count, int member) {
        uint8_t* to = codes.data() + (first - row) * cols_;
        float* to_scales = scales.data() + (first - row) / kFp8Block * grid_cols;
        std::vector<float>& buffer = buffers[static_cast<size_t>(member)];
        if (!take_block_row(first, count, to, to_scales)) {
          if (!finite_values(first, count, buffer)) return;
          quantize_fp8(buffer.data(), count, cols_, module_.scales, to, to_scales);
        }
        check_quantized(first, {.form = WeightForm::kFp8,
                                .rows = count,
                                .cols = cols_,
                                .data = to,
                                .scales = to_scales,
                                .block_rows = kFp8Block,
                                .block_cols = kFp8Block});
      });
      sink_(0, static_cast<uint64_t>(row * cols_), bytes_of(codes, (end - row) * cols_));
      const int64_t grid_rows = (end - row + kFp8Block - 1) / kFp8Block;
      write_block_scales(row / kFp8Block * grid_cols, scales, grid_rows * grid_cols);
    }
  }

  /// A row of blocks that is stored as such keeps its codes, as do rows of a matrix of one scale, which then
  /// stands in each block, where its scales can be written as the recipe asks.
  bool take_block_row(int64_t first, int64_t count, uint8_t* codes, float* scales) const {
    for (const StoredRows& part : stored_) {
      const Weight& weight = part.weight;
      if (first >= weight.rows) {
        first -= weight.rows;
        continue;
      }
      if (weight.form != WeightForm::kFp8 || first + count > weight.rows) return false;
      const bool blocks = weight.block_rows == kFp8Block && weight.block_cols == kFp8Block &&
                          (weight.first_row + first) % kFp8Block == 0;
      const bool one = weight.block_rows >= weight.first_row + weight.rows && weight.block_cols >= cols_;
      if (!blocks && !one) return false;
      const int64_t grid_cols = (cols_ + kFp8Block - 1) / kFp8Block;
      const float* from = weight.block_scales(first);
      const int64_t num_scales = one ? 1 : grid_cols;
      if (module_.scales != BlockScales::kF32 && !std::all_of(from, from + num_scales, is_power_of_two))
        return false;
      if (one) {
        std::fill_n(scales, grid_cols, *from);
      } else {
        std::copy_n(from, grid_cols, scales);
      }
      std::memcpy(codes, static_cast<const uint8_t*>(weight.data) + first * cols_,
                  static_cast<size_t>(count * cols_));
      return true;
    }
    return false;
  }

  void write_block_scales(int64_t first, const std::vector<float>& scales, int64_t count) {
    if (module_.scales != BlockScales::kE8m0) {
      return sink_(1, static_cast<uint64_t>(first) * sizeof(float), bytes_of(scales, count));
    }
    std::vector<uint8_t> bytes(static_cast<size_t>(count));
    std::transform(scales.begin(), scales.begin() + count, bytes.begin(), to_e8m0);
    sink_(1, static_cast<uint64_t>(first), bytes_of(bytes, count));
  }

  void write_nvfp4() {
    auto buffers = scratch(chunk_rows());
    std::vector<float> largest(buffers.size());
    for_rows(0, module_.rows, chunk_rows(), [&](int64_t first, int64_t count, int member) {
      float& most = largest[static_cast<size_t>(member)];
      most = std::max(most, finite_values(first, count, buffers[static_cast<size_t>(member)]).value_or(0));
    });
    float factor = nvfp4_factor(*std::max_element(largest.begin(), largest.end()));
    float written = factor;
    if (module_.form->weight != "weight") {  // compressed-tensors divides
      written = 1 / factor;
      factor = 1 / written;
    }
    const int64_t width = row_bytes(WeightForm::kNvfp4, cols_);
    const int64_t groups = cols_ / kNvfp4Group;
    const int64_t slab = slab_rows(width, chunk_rows());
    const int64_t most_rows = std::min(slab, module_.rows);
    std::vector<uint8_t> codes(static_cast<size_t>(most_rows * width));
    std::vector<uint8_t> scales(static_cast<size_t>(most_rows * groups));
    for (int64_t row = 0; row < module_.rows; row += slab) {
      const int64_t end = std::min(module_.rows, row + slab);
      for_rows(row, end, chunk_rows(), [&](int64_t first, int64_t count, int member) {
        std::vector<float>& buffer = buffers[static_cast<size_t>(member)];
        finite_values(first, count, buffer);
        uint8_t* to = codes.data() + (first - row) * width;
        uint8_t* to_scales = scales.data() + (first - row) * groups;
        quantize_nvfp4(buffer.data(), count, cols_, factor, to, to_scales);
        check_quantized(first, {.form = WeightForm::kNvfp4,
                                .rows = count,
                                .cols = cols_,
                                .data = to,
                                .scales = to_scales,
                                .global = static_cast<double>(factor)});
      });
      sink_(0, static_cast<uint64_t>(row * width), bytes_of(codes, (end - row) * width));
      sink_(1, static_cast<uint64_t>(row * groups), bytes_of(scales, (end - row) * groups));
    }
    sink_(2, 0, std::as_bytes(std::span(&written, 1)));
  }

  void check_quantized(int64_t first, const Weight& written) {
    if (const auto infinite = first_overflow(written)) note_bad(first * cols_ + *infinite);
    look_for_any(written.form, static_cast<const std::byte*>(written.data),
                 written.rows * row_bytes(written.form, cols_));
  }
  void look_for_any(WeightForm form, const std::byte* values, int64_t bytes) {
    if (!any_left_ && any_nonzero(form, values, bytes)) any_left_ = true;
  }

  /// All that was written is 0: what was read must be too.
  void refuse_lost_matrix() {
    std::vector<float> buffer(static_cast<size_t>(chunk_rows() * cols_));
    float largest = 0;
    for (int64_t row = 0; row < module_.rows; row += chunk_rows()) {
      const int64_t count = std::min(chunk_rows(), module_.rows - row);
      largest = std::max(largest, finite_values(row, count, buffer).value_or(0));
    }
    if (largest > 0)
      throw Error(
          lost_matrix(catalog_, weight_of(catalog_, module_.sources.front()), largest, *module_.form));
  }

  void note_bad(int64_t index) {
    int64_t before = bad_.load();
    while ((before < 0 || index < before) && !bad_.compare_exchange_weak(before, index)) {
    }
  }
  void refuse_bad_value() const {
    if (bad_ < 0) return;
    int64_t row = bad_ / cols_;
    const SourceRows* at = module_.sources.data();
    for (; row >= at->rows; ++at) row -= at->rows;
    const CatalogEntry& entry = weight_of(catalog_, *at);
    const std::string index = fmt::format("[{}, {}]", at->first_row + row, bad_ % cols_);
    std::vector<float> of_row(static_cast<size_t>(cols_));
    values(bad_ / cols_, 1, WeightForm::kF32, reinterpret_cast<std::byte*>(of_row.data()));
    const float value = of_row[static_cast<size_t>(bad_ % cols_)];
    throw Error(unwritable_value(catalog_, entry, index, value, *module_.form));
  }

  const ConvertedModule& module_;
  const Catalog& catalog_;
  ThreadTeam& team_;
  const TensorSink& sink_;
  const int64_t cols_;
  std::vector<StoredRows> stored_;
  std::atomic<bool> any_left_{false};  // a value that was written isn't 0
  std::atomic<int64_t> bad_{-1};       // the first value that can't be written
};

std::span<const std::byte> ModuleConverter::piece_of(const CatalogEntry& entry, uint64_t begin,
                                                     uint64_t bytes) {
  if (!entry.drawn) return catalog_.bytes(entry).subspan(begin, bytes);
  drawn_.resize(bytes);
  draw_on(team_, catalog_, entry, begin, drawn_);
  return drawn_;
}

void ModuleConverter::check_scale(const ConvertedTensor& tensor) const {
  if (!tensor.role) return;
  for (const ByteRange& range : tensor.ranges)
    (void)read_scale({.entry = range.entry, .role = *tensor.role}, catalog_);
}

void ModuleConverter::copy(const ConvertedTensor& tensor, size_t number, const TensorSink& sink) {
  uint64_t offset = 0;
  for (const ByteRange& range : tensor.ranges) {
    const CatalogEntry& entry = catalog_.entries[static_cast<size_t>(range.entry)];
    for (uint64_t at = 0; at < range.bytes; at += kSlabBytes) {
      const uint64_t bytes = std::min<uint64_t>(kSlabBytes, range.bytes - at);
      sink(number, offset + at, piece_of(entry, range.offset + at, bytes));
    }
    offset += range.bytes;
  }
}

void ModuleConverter::write_reciprocal(const ConvertedTensor& tensor, size_t number,
                                       const TensorSink& sink) const {
  const int entry_number = tensor.ranges.front().entry;
  float value = 0;
  catalog_.read(catalog_.entries[static_cast<size_t>(entry_number)], 0,
                std::as_writable_bytes(std::span(&value, 1)));
  const float reciprocal = 1 / value;
  // A subnormal has lost bits, and some codes under so large a scale are infinite.
  const double factor = tensor.role == ScaleRole::kDivisor ? double{reciprocal} : double{value};
  const bool infinite = tensor.role != ScaleRole::kActivations && factor * kMostE4m3 * kMostE2m1 > kMostBf16;
  if (!std::isnormal(reciprocal) || infinite) {
    throw Error(
        unwritable_scale(catalog_, catalog_.entries[static_cast<size_t>(entry_number)], value, infinite));
  }
  sink(number, 0, std::as_bytes(std::span(&reciprocal, 1)));
}

void ModuleConverter::convert(const ConvertedModule& module, const TensorSink& sink) {
  for (size_t i = 0; i < module.tensors.size(); ++i) {
    const ConvertedTensor& tensor = module.tensors[i];
    check_scale(tensor);
    if (tensor.way == ConvertedTensor::Way::kCopied) copy(tensor, i, sink);
    if (tensor.way == ConvertedTensor::Way::kReciprocal) write_reciprocal(tensor, i, sink);
    for (const ByteRange& range : tensor.ranges)
      catalog_.throw_if_damaged(catalog_.entries[static_cast<size_t>(range.entry)]);
  }
  for (const SourceRows& rows : module.copied) refuse_infinite_products(team_, catalog_, rows);
  if (!module.sources.empty()) Computation(module, catalog_, team_, sink).run();
  for (const SourceRows& rows : module.sources) {
    catalog_.throw_if_damaged(weight_of(catalog_, rows));
    for (const PlannedScale& scale : rows.source->scales)
      catalog_.throw_if_damaged(catalog_.entries[static_cast<size_t>(scale.entry)]);
  }
  release(module);
}

void ModuleConverter::release(const ConvertedModule& module) const {
  const auto release_entry = [&](int number) {
    catalog_.release(catalog_.entries[static_cast<size_t>(number)]);
  };
  for (const ConvertedTensor& tensor : module.tensors) {
    for (const ByteRange& range : tensor.ranges) release_entry(range.entry);
  }
  for (const SourceRows& rows : module.sources) {
    release_entry(rows.source->entry);
    for (const PlannedScale& scale : rows.source->scales) release_entry(scale.entry);
  }
}

}  // namespace fulgur
