#pragma once

// How the pages of a launch's rows, of whatever lengths, are dealt to its blocks: in the order of the rows,
// the same number to each, one more or less. As functions that both the kernel and its host tests call.

#include <cstdint>

#include "kernels/cuda/decode_layout.h"

namespace fulgur::cuda {

/// Rows of a launch that deals: its threads find each row's first page.
constexpr int kMostDealtRows = 512;
/// Pages that a block lists at a time.
constexpr int kMostDealtPages = 1024;
/// Rows of a launch of the top-k that deals.
constexpr int kMostDealtTopkRows = 256;

/// Blocks that have pages, of `blocks`: fewer where there isn't a page for each warpgroup.
constexpr int dealt_blocks(int pages, int blocks) {
  const int most = (pages + kDecodeGroups - 1) / kDecodeGroups;
  return most < blocks ? most : blocks;
}
/// The first of `pages` pages that is block `block`'s, one of `blocks`; the end of the last's for `blocks`.
constexpr int first_dealt_page(int pages, int block, int blocks) {
  return static_cast<int>(int64_t{pages} * block / blocks);
}

/// Which of `runs` runs of pages `page` lies in: at most kMostDealtRows, at least one. `first_pages` ascends
/// from 0: where each begins, and behind the last, up to the next power of two, the end. `page` is before it.
constexpr int run_of_page(const int* first_pages, int runs, int page) {
  int run = 0;
  int step = 1;
  while (step < runs) step *= 2;
  while ((step /= 2) > 0) {
    if (first_pages[run + step] <= page) run += step;
  }
  return run;
}

/// Top-k: which of the short rows, a block each, is block `block`'s n-th, where the first `busy` of `blocks`
/// blocks have a long row more than the others, together, which takes as long as two short ones.
constexpr int dealt_short_row(int n, int block, int busy, int blocks) {
  constexpr int kRounds = 2;
  const int free = blocks - busy;
  const int ahead = block >= busy ? kRounds : 0;
  return n < ahead ? n * free + block - busy : kRounds * free + (n - ahead) * blocks + block;
}

}  // namespace fulgur::cuda
