#include "runtime/page_pool.h"

#include <algorithm>
#include <functional>
#include <numeric>

namespace fulgur {

PagePool::PagePool(int num_pages, PrefixIndex::Hash hash)
    : index_(num_pages, hash),
      holders_(static_cast<size_t>(num_pages), 0),
      free_(static_cast<size_t>(num_pages)),
      others_(static_cast<size_t>(num_pages)) {
  std::iota(free_.begin(), free_.end(), 0);
  std::iota(others_.begin(), others_.end(), 0);
  for (auto node = others_.begin(); node != others_.end(); ++node) place_.push_back(node);
}

int PagePool::take() noexcept {
  int page = -1;
  if (!free_.empty()) {
    std::ranges::pop_heap(free_, std::greater());
    page = free_.back();
    free_.pop_back();
  } else {
    page = idle_.front();
    others_.splice(others_.end(), idle_, idle_.begin());
    index_.erase(page);
  }
  holders_[static_cast<size_t>(page)] = 1;
  return page;
}

void PagePool::hold(int page) noexcept {
  if (holders_[static_cast<size_t>(page)]++ == 0)
    others_.splice(others_.end(), idle_, place_[static_cast<size_t>(page)]);
}

void PagePool::release(int page) noexcept {
  if (--holders_[static_cast<size_t>(page)] > 0) return;
  if (index_.contains(page)) {
    idle_.splice(idle_.end(), others_, place_[static_cast<size_t>(page)]);
  } else {
    free_.push_back(page);
    std::ranges::push_heap(free_, std::greater());
  }
}

void PagePool::release(std::span<const int32_t> pages) noexcept {
  for (size_t i = pages.size(); i-- > 0;) release(pages[i]);
}

std::vector<int32_t> PagePool::take_prefix(std::span<const int32_t> tokens, int64_t max_pages) {
  std::vector<int32_t> pages;
  const auto full = static_cast<int64_t>(tokens.size()) / kPageTokens;
  pages.reserve(static_cast<size_t>(std::min(full, max_pages)));  // what is held is in it without fail
  int parent = -1;
  for (; static_cast<int64_t>(pages.size()) < max_pages && tokens.size() >= kPageTokens;
       tokens = tokens.subspan(kPageTokens)) {
    parent = index_.find(parent, tokens.first(kPageTokens));
    if (parent < 0) break;
    hold(parent);
    pages.push_back(parent);
  }
  return pages;
}

int PagePool::publish(int page, int parent, std::span<const int32_t> tokens) {
  const int earlier = index_.find(parent, tokens);
  if (earlier < 0) {
    index_.insert(page, parent, tokens);
    return page;
  }
  hold(earlier);
  release(page);
  return earlier;
}

}  // namespace fulgur
