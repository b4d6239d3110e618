#include "checkpoint/convert_module.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <optional>
#include <string>

#include "base/printable.h"
#include "checkpoint/dequantize.h"
#include "checkpoint/find_value.h"
#include "checkpoint/load_scales.h"
#include "checkpoint/quantize.h"

namespace fulgur {
namespace {

constexpr int64_t kSlabBytes = int64_t{32} << 20;
constexpr int64_t kChunkElements = int64_t{1} << 18;  // of a thread: 1 MiB of f32

/// Draws bytes of a tensor, from `begin` on, on all threads.
void draw_on(ThreadTeam& team, const Catalog& catalog, const CatalogEntry& entry, uint64_t begin,
             std::span<std::byte> to) {
  constexpr int64_t kWholeElements = 64;
  team.run([&](int member) {
    const Share share = share_of(static_cast<int64_t>(to.size()), member, team.size(), kWholeElements);
    const auto first = static_cast<size_t>(share.begin);
    catalog.read(entry, begin + first, to.subspan(first, static_cast<size_t>(share.end) - first));
  });
}

/// All of a tensor: where it lies in its file, or drawn into `drawn`.
const std::byte* all_bytes(ThreadTeam& team, const Catalog& catalog, int number,
                           std::vector<std::byte>& drawn) {
  const CatalogEntry& entry = catalog.entries[static_cast<size_t>(number)];
  if (!entry.drawn) return catalog.bytes(entry).data();
  drawn.resize(entry.bytes);
  draw_on(team, catalog, entry, 0, drawn);
  return drawn.data();
}

const CatalogEntry& weight_of(const Catalog& catalog, const SourceRows& rows) {
  return catalog.entries[static_cast<size_t>(rows.source->entry)];
}

/// Rows of a stored module, with its scales.
struct StoredRows {
  Weight weight;
  std::vector<float> block_scales;
  std::vector<std::byte> drawn_weight;  // of tensors that lie in no file
  std::vector<std::byte> drawn_groups;
};

StoredRows stored_rows(ThreadTeam& team, const Catalog& catalog, const SourceRows& rows) {
  const CatalogEntry& entry = weight_of(catalog, rows);
  StoredRows stored{.weight = {.form = rows.source->form->form,
                               .rows = entry.shape.front(),
                               .cols = entry.shape.back(),
                               .block_rows = rows.source->block_rows,
                               .block_cols = rows.source->block_cols}};
  stored.weight.data = all_bytes(team, catalog, rows.source->entry, stored.drawn_weight);
  if (stored.weight.form == WeightForm::kNvfp4) stored.weight.cols *= kNvfp4CodesPerByte;
  for (const PlannedScale& scale : rows.source->scales) {
    std::vector<float> values = read_scale(scale, catalog);
    switch (scale.role) {
      case ScaleRole::kBlocks:
        stored.block_scales = std::move(values);
        stored.weight.scales = stored.block_scales.data();  // a move of the vector leaves them where they are
        break;
      case ScaleRole::kGroups:
        stored.weight.scales = all_bytes(team, catalog, scale.entry, stored.drawn_groups);
        break;
      case ScaleRole::kFactor:
        stored.weight.global = static_cast<double>(values.front());
        break;
      case ScaleRole::kDivisor:
        stored.weight.global = 1 / static_cast<double>(values.front());
        break;
      case ScaleRole::kActivations:
        break;
    }
  }
  stored.weight = stored.weight.take_rows(rows.first_row, rows.rows);
  return stored;
}

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
        return write_fp8();
      case WeightForm::kNvfp4:
        return write_nvfp4();
      default:
        return write_plain();
    }
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
        if (take_block_row(first, count, to, to_scales) || !finite_values(first, count, buffer)) return;
        quantize_fp8(buffer.data(), count, cols_, module_.scales, to, to_scales);
      });
      sink_(0, static_cast<uint64_t>(row * cols_), bytes_of(codes, (end - row) * cols_));
      const int64_t grid_rows = (end - row + kFp8Block - 1) / kFp8Block;
      write_block_scales(row / kFp8Block * grid_cols, scales, grid_rows * grid_cols);
    }
  }

  /// A row of blocks that is stored as such keeps its codes, where its scales can be written as the recipe
  /// asks.
  bool take_block_row(int64_t first, int64_t count, uint8_t* codes, float* scales) const {
    for (const StoredRows& part : stored_) {
      const Weight& weight = part.weight;
      if (first >= weight.rows) {
        first -= weight.rows;
        continue;
      }
      const bool blocks = weight.form == WeightForm::kFp8 && weight.block_rows == kFp8Block &&
                          weight.block_cols == kFp8Block && (weight.first_row + first) % kFp8Block == 0;
      if (!blocks || first + count > weight.rows) return false;
      const int64_t grid_cols = (cols_ + kFp8Block - 1) / kFp8Block;
      const float* from = weight.block_scales(first);
      if (module_.scales != BlockScales::kF32 && !std::all_of(from, from + grid_cols, is_power_of_two))
        return false;
      std::copy_n(from, grid_cols, scales);
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
        quantize_nvfp4(buffer.data(), count, cols_, factor, codes.data() + (first - row) * width,
                       scales.data() + (first - row) * groups);
      });
      sink_(0, static_cast<uint64_t>(row * width), bytes_of(codes, (end - row) * width));
      sink_(1, static_cast<uint64_t>(row * groups), bytes_of(scales, (end - row) * groups));
    }
    sink_(2, 0, std::as_bytes(std::span(&written, 1)));
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
    throw Error(Problem{
        .kind = ErrorKind::kBadValue,
        .file = catalog_.file_of(entry),
        .tensor = entry.name,
        .message = fmt::format("{}{} is not a finite number, or is none in the form that it is to have.",
                               printable(entry.name), index),
        .expected = "finite weights",
        .found = fmt::format("a NaN, an infinity, or what becomes one, at {}", index),
        .todo = "find all such values with fulgur inspect --verify, and fetch the file again"});
  }

  const ConvertedModule& module_;
  const Catalog& catalog_;
  ThreadTeam& team_;
  const TensorSink& sink_;
  const int64_t cols_;
  std::vector<StoredRows> stored_;
  std::atomic<int64_t> bad_{-1};  // the first value that can't be written
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
  if (!std::isfinite(reciprocal) || !(reciprocal > 0)) {
    const CatalogEntry& entry = catalog_.entries[static_cast<size_t>(entry_number)];
    throw Error(
        Problem{.kind = ErrorKind::kBadScale,
                .file = catalog_.file_of(entry),
                .tensor = entry.name,
                .message = fmt::format("{} is {}, whose reciprocal no scale can be.", printable(entry.name),
                                       std::isnan(value) ? "nan" : fmt::format("{}", value)),
                .expected = "a finite number above 0 that has a reciprocal",
                .found = fmt::format("{}", value),
                .todo = "fetch this file again, or convert again"});
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
  if (!module.sources.empty()) Computation(module, catalog_, team_, sink).run();
  for (const SourceRows& rows : module.sources) {
    catalog_.throw_if_damaged(weight_of(catalog_, rows));
    for (const PlannedScale& scale : rows.source->scales)
      catalog_.throw_if_damaged(catalog_.entries[static_cast<size_t>(scale.entry)]);
  }
}

}  // namespace fulgur
