#pragma once

// A row of selected positions and their cache slots, as the tuned kernels write it.

#include <cstdint>

namespace fulgur::cuda {

/// Where one row's selection goes.
struct SelectedRow {
  int32_t* positions;          // [topk]
  int32_t* slots;              // [topk], null: not wanted
  const int32_t* slice_pages;  // the slice's part of the page table, shared memory
};

/// A row that may read all it has: positions 0 to length - 1, then -1; `length` 0 fills it with -1.
template <int kThreads>
__device__ void write_all(int length, uint32_t topk, const int32_t* page_table, int32_t* positions,
                          int32_t* slots) {
  for (int i = static_cast<int>(threadIdx.x); i < static_cast<int>(topk); i += kThreads) {
    positions[i] = i < length ? i : -1;
    if (slots != nullptr) slots[i] = i < length ? page_table[i / 64] * 64 + i % 64 : -1;
  }
}

}  // namespace fulgur::cuda
