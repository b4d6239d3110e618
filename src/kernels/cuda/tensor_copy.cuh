#pragma once

// Tensor copies [cp.async.bulk.tensor] (PTX ISA 9.0).

#include <cuda.h>

#include "kernels/cuda/hopper.cuh"

namespace fulgur::cuda {

/// Copies a box of three dimensions to shared memory (aligned to 128 bytes, swizzled ones to 1,024) and
/// counts its bytes on the barrier; the first coordinate is 0.
__device__ inline void tensor_copy(void* to_shared, const CUtensorMap& map, int outer, int row,
                                   uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%5, %3, %2}], "
      "[%4];" ::"r"(shared_address(to_shared)),
      "l"(&map), "r"(outer), "r"(row), "r"(shared_address(barrier)), "r"(0)
      : "memory");
}
/// A box in five dimensions, of which only the first and the last coordinate aren't 0, to the same place in
/// the blocks of the cluster that `blocks` has a bit for, and counted on each one's barrier.
__device__ inline void tensor_copy_outer(void* to_shared, const CUtensorMap& map, int column, int outer,
                                         uint64_t* barrier, uint16_t blocks) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
      "[%0], [%1, {%2, %5, %5, %5, %3}], [%4], %6;" ::"r"(shared_address(to_shared)),
      "l"(&map), "r"(column), "r"(outer), "r"(shared_address(barrier)), "r"(0), "h"(blocks)
      : "memory");
}

}  // namespace fulgur::cuda
