#include "ops/arena.h"

#include <algorithm>
#include <cassert>

#include "ops/backend.h"

namespace fulgur {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kMinBlockBytes = size_t{4} << 20;
constexpr uintptr_t kNowhere = uintptr_t{1} << 62;  // no address of a process: a use of it is noticed

}  // namespace

Arena::~Arena() {
  for (const Block& block : blocks_) backend_.release(block.data);
}

void Arena::reserve(size_t bytes, ThreadTeam& team) {
  assert(live_ == 0);
  if (!blocks_.empty() && blocks_.front().size >= bytes) return;
  for (const Block& block : blocks_) backend_.release(block.data);
  blocks_.clear();
  current_ = 0;
  blocks_.reserve(1);
  blocks_.push_back({static_cast<std::byte*>(backend_.allocate(bytes)), bytes, 0});
  if (backend_.settle != nullptr) backend_.settle(team, blocks_.front().data, bytes);
}

void* Arena::allocate(size_t bytes) {
  bytes = std::max((bytes + kAlignment - 1) / kAlignment * kAlignment, kAlignment);
  if (only_counts_) {
    void* const nowhere = reinterpret_cast<void*>(kNowhere + live_);
    live_ += bytes;
    peak_ = std::max(peak_, live_);
    return nowhere;
  }
  while (current_ < blocks_.size() && blocks_[current_].used + bytes > blocks_[current_].size) {
    if (current_ + 1 == blocks_.size()) break;
    ++current_;
  }
  if (blocks_.empty() || blocks_[current_].used + bytes > blocks_[current_].size) {
    const size_t size =
        std::max({bytes, kMinBlockBytes, blocks_.empty() ? size_t{0} : 2 * blocks_.back().size});
    blocks_.reserve(blocks_.size() + 1);  // what the back end gives is in it without fail
    blocks_.push_back({static_cast<std::byte*>(backend_.allocate(size)), size, 0});
    current_ = blocks_.size() - 1;
  }
  Block& block = blocks_[current_];
  void* data = block.data + block.used;
  block.used += bytes;
  live_ += bytes;
  peak_ = std::max(peak_, live_);
  return data;
}

Operand Arena::operand(DType dtype, int64_t rows, int64_t cols) {
  return {allocate(static_cast<size_t>(rows * cols) * size_bytes(dtype)), dtype, rows, cols, cols};
}

void* Arena::allocate_table(size_t bytes) {
  void* const data = allocate(bytes);
  if (!only_counts_) return data;
  tables_.push_back(std::make_unique_for_overwrite<std::byte[]>(bytes));
  return tables_.back().get();
}

void* Arena::upload_bytes(const void* values, size_t bytes) {
  void* to = allocate_table(bytes);
  backend_.upload(to, values, bytes);
  return to;
}

Arena::Mark Arena::mark() const {
  if (only_counts_) return {tables_.size(), live_};
  return {current_, blocks_.empty() ? 0 : blocks_[current_].used};
}

void Arena::release_to(Mark mark) {
  if (only_counts_) {
    tables_.resize(mark.block);
    live_ = mark.used;
    return;
  }
  for (size_t i = mark.block; i < blocks_.size(); ++i) {
    const size_t keep = i == mark.block ? mark.used : 0;
    live_ -= blocks_[i].used - keep;
    blocks_[i].used = keep;
  }
  current_ = mark.block;
}

}  // namespace fulgur
