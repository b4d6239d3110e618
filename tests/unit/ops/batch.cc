#include "unit/ops/batch.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <numeric>

namespace fulgur::test {
namespace {

constexpr int kUnownedPages = 3;

int pages_for(int tokens) { return (tokens + kPageTokens - 1) / kPageTokens; }

}  // namespace

std::vector<Part> beginning_at(int first_position, std::vector<Part> parts) {
  for (Part& part : parts) part.cached = std::max(part.cached, first_position);
  return parts;
}

Batch::Batch(Machine& machine, Random& random, const std::vector<Part>& parts, int vocab, int first_position)
    : parts_(parts), first_position_(first_position) {
  int most_pages = 0;
  for (const Part& part : parts) {
    num_tokens_ += part.count;
    max_context_ = std::max(max_context_, part.cached + part.count);
    num_pages_ += pages_for(part.cached + part.count);
    most_pages = std::max(most_pages, pages_for(part.cached + part.count));
  }
  num_pages_ += kUnownedPages;
  std::vector<int> free_pages(static_cast<size_t>(num_pages_));
  std::iota(free_pages.begin(), free_pages.end(), 0);
  std::ranges::shuffle(free_pages, random.engine());

  token_ = &machine.add(DType::kI32, num_tokens_, 1);
  position_ = &machine.add(DType::kI32, num_tokens_, 1);
  sequence_ = &machine.add(DType::kI32, num_tokens_, 1);
  pages_ = &machine.add(DType::kI32, num_sequences(), most_pages,
                        {.padding = 2});  // what isn't set is no valid page
  fault_ = &machine.add(DType::kU32, num_sequences(), 1).fill([](int64_t, int64_t) { return 0; });
  int row = 0;
  for (int s = 0; s < num_sequences(); ++s) {
    const Part& part = parts[static_cast<size_t>(s)];
    for (int i = 0; i < part.count; ++i, ++row) {
      token_->set(row, 0, static_cast<double>(random.integer(0, vocab - 1)));
      position_->set(row, 0, part.cached + i);
      sequence_->set(row, 0, s);
    }
    for (int i = 0; i < pages_for(part.cached + part.count); ++i) {
      pages_->set(s, i, free_pages.back());
      free_pages.pop_back();
    }
  }
}

TokenBatch Batch::rows(Side side, int first, int count) const {
  return {.num_tokens = count < 0 ? num_tokens_ : count,
          .num_sequences = num_sequences(),
          .max_context = max_context_,
          .first_position = first_position_,
          .token = static_cast<const int32_t*>(token_->data(side, first)),
          .position = static_cast<const int32_t*>(position_->data(side, first)),
          .sequence = static_cast<const int32_t*>(sequence_->data(side, first)),
          .pages = pages_->matrix<const int32_t>(side),
          .fault = static_cast<uint32_t*>(fault_->data(side))};
}

int64_t Batch::pool_token(int sequence, int position) const {
  return static_cast<int64_t>(pages_->before(sequence, position / kPageTokens)) * kPageTokens +
         position % kPageTokens;
}

KeyPool::KeyPool(Machine& machine, const Batch& batch, DType dtype, int width)
    : dtype_(dtype), width_(width) {
  const PagedKeys layout{.dtype = dtype, .width = width};
  pool_ = fp8() ? &machine.add(DType::kU8, batch.num_pages(), static_cast<int64_t>(layout.page_bytes()))
                : &machine.add(dtype, batch.num_pages(), layout.page_elements());
}

PagedKeys KeyPool::keys(Side side) const {
  return {.data = pool_->data(side),
          .dtype = dtype_,
          .num_pages = static_cast<int>(pool_->rows()),
          .width = width_};
}

void KeyPool::set(int64_t pool_token, int dim, double value) {
  const int64_t page = pool_token / kPageTokens;
  const auto slot = static_cast<int>(pool_token % kPageTokens);
  if (fp8()) {
    pool_->set(page, int64_t{slot} * width_ + dim, to_e4m3(static_cast<float>(value)));
    return;
  }
  pool_->set(page, PagedKeys::offset(dim, slot), value);
  if (width_ % 2 != 0 && dim == width_ - 1) pool_->set(page, PagedKeys::offset(width_, slot), 0);
}

void KeyPool::set_scale(int64_t pool_token, float scale) {
  const auto bytes = std::bit_cast<std::array<uint8_t, 4>>(scale);
  for (int i = 0; i < 4; ++i)
    pool_->set(pool_token / kPageTokens, scale_byte(pool_token % kPageTokens) + i,
               bytes[static_cast<size_t>(i)]);
}

double KeyPool::after(int64_t pool_token, int dim) const {
  const int64_t page = pool_token / kPageTokens;
  const auto slot = static_cast<int>(pool_token % kPageTokens);
  if (fp8()) return e4m3_to_float(static_cast<uint8_t>(pool_->after(page, int64_t{slot} * width_ + dim)));
  return pool_->after(page, PagedKeys::offset(dim, slot));
}

float KeyPool::scale_after(int64_t pool_token) const {
  std::array<uint8_t, 4> bytes{};
  for (int i = 0; i < 4; ++i)
    bytes[static_cast<size_t>(i)] = static_cast<uint8_t>(
        pool_->after(pool_token / kPageTokens, scale_byte(pool_token % kPageTokens) + i));
  return std::bit_cast<float>(bytes);
}

void KeyPool::may_change(const std::vector<int64_t>& pool_tokens) {
  pool_->may_change([&](int64_t page, int64_t element) {
    int64_t slot = element / 2 % kPageTokens;
    if (fp8()) slot = element < scale_byte(0) ? element / width_ : (element - scale_byte(0)) / 4;
    return std::ranges::find(pool_tokens, page * kPageTokens + slot) != pool_tokens.end();
  });
}

LatentPool::LatentPool(Machine& machine, const Batch& batch, DType dtype, int kv_lora, int rope)
    : layout_{.dtype = dtype, .num_pages = batch.num_pages(), .width = kv_lora + rope, .rope = rope} {
  const int64_t tokens = int64_t{batch.num_pages()} * kPageTokens;
  pool_ = fp8() ? &machine.add(DType::kU8, tokens, static_cast<int64_t>(layout_.entry_bytes()))
                : &machine.add(dtype, tokens, layout_.width);
}

PagedLatents LatentPool::latents(Side side) const {
  PagedLatents latents = layout_;
  latents.data = pool_->data(side);
  return latents;
}

void LatentPool::set(int64_t pool_token, int i, double value) {
  if (!fp8()) {
    pool_->set(pool_token, i, value);
  } else if (i < layout_.kv_lora()) {
    pool_->set(pool_token, i, to_e4m3(static_cast<float>(value)));
  } else {
    const uint16_t bits = to_bf16(static_cast<float>(value)).bits;
    pool_->set(pool_token, rope_byte(i), bits & 0xff);
    pool_->set(pool_token, rope_byte(i) + 1, bits >> 8);
  }
}

void LatentPool::set_scale(int64_t pool_token, int group, float scale) {
  const auto bytes = std::bit_cast<std::array<uint8_t, 4>>(scale);
  for (int i = 0; i < 4; ++i) pool_->set(pool_token, scale_byte(group) + i, bytes[static_cast<size_t>(i)]);
}

void LatentPool::fill_normal(Random& random, int64_t pool_token) {
  constexpr double kUnit = 8;  // of the codes: those of a group aren't all subnormal
  for (int i = 0; i < layout_.width; ++i) {
    set(pool_token, i, (fp8() && i < layout_.kv_lora() ? kUnit : 1) * random.normal());
  }
  for (int group = 0; fp8() && group < layout_.num_scales(); ++group) {
    set_scale(pool_token, group, static_cast<float>(std::exp2(random.normal() / 2) / kUnit));
  }
}

double LatentPool::after(int64_t pool_token, int i) const {
  if (!fp8()) return pool_->after(pool_token, i);
  if (i < layout_.kv_lora()) return e4m3_to_float(static_cast<uint8_t>(pool_->after(pool_token, i)));
  return to_float(
      Bf16{static_cast<uint16_t>(static_cast<int>(pool_->after(pool_token, rope_byte(i))) |
                                 static_cast<int>(pool_->after(pool_token, rope_byte(i) + 1)) << 8)});
}

float LatentPool::scale_after(int64_t pool_token, int group) const {
  std::array<uint8_t, 4> bytes{};
  for (int i = 0; i < 4; ++i)
    bytes[static_cast<size_t>(i)] = static_cast<uint8_t>(pool_->after(pool_token, scale_byte(group) + i));
  return std::bit_cast<float>(bytes);
}

void LatentPool::may_change(const std::vector<int64_t>& pool_tokens) {
  pool_->may_change(
      [&](int64_t token, int64_t) { return std::ranges::find(pool_tokens, token) != pool_tokens.end(); });
}

}  // namespace fulgur::test
