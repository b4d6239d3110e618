#pragma once

// PTX of Hopper that CUDA C++ has no function for, each wrapped once (PTX ISA 9.0; sections in brackets).

#include <cstdint>

#include "kernels/cuda/launch.h"  // wait_for_predecessor, allow_successor

namespace fulgur::cuda {

/// The address that instructions on shared memory take.
__device__ inline uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Barriers on which the copy engine counts bytes [mbarrier].
__device__ inline void mbarrier_init(uint64_t* barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals)
               : "memory");
}
/// Makes initialized barriers visible to the copy engine.
__device__ inline void fence_mbarrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ inline void mbarrier_expect(uint64_t* barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
               "r"(bytes)
               : "memory");
}
__device__ inline void mbarrier_arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
__device__ inline void mbarrier_wait(uint64_t* barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}\n" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}

/// Orders ordinary accesses to shared memory before those of the copy engine and the tensor cores.
__device__ inline void fence_async_proxy() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

/// Copies `bytes` (a multiple of 16, both ends aligned to 16) and counts them on the barrier [cp.async.bulk].
__device__ inline void bulk_copy(void* to_shared, const void* from_global, uint32_t bytes,
                                 uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
          shared_address(to_shared)),
      "l"(from_global), "r"(bytes), "r"(shared_address(barrier))
      : "memory");
}

/// The same of what won't be read again soon: the first that L2 gives up [createpolicy].
__device__ inline void bulk_copy_once(void* to_shared, const void* from_global, uint32_t bytes,
                                      uint64_t* barrier) {
  uint64_t policy;
  asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, "
      "[%3], "
      "%4;" ::"r"(shared_address(to_shared)),
      "l"(from_global), "r"(bytes), "r"(shared_address(barrier)), "l"(policy)
      : "memory");
}

/// A barrier of `threads` threads, one of 1 to 15 [barrier.sync].
__device__ inline void named_barrier(uint32_t id, uint32_t threads) {
  asm volatile("barrier.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// Thread block clusters [barrier.cluster, mapa].
__device__ inline uint32_t cluster_size() {
  uint32_t size;
  asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
  return size;
}
__device__ inline uint32_t cluster_rank() {
  uint32_t rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
/// All threads of the cluster meet in two halves. They order nothing but initialized mbarriers
/// (fence_mbarrier_init): with release, the first half costs a fence of global memory.
__device__ inline void cluster_arrive() {
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}
__device__ inline void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }

__device__ inline uint32_t remote_address(const void* own, uint32_t rank) {
  uint32_t address;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(shared_address(own)), "r"(rank));
  return address;
}
/// Writes to the same place of another block's shared memory and counts the bytes on its barrier [st.async]:
/// no fence is needed, mbarrier_wait_cluster makes them visible.
__device__ inline void send(uint32_t* own, uint64_t* own_barrier, uint32_t rank, uint4 value) {
  asm volatile(
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(
          remote_address(own, rank)),
      "r"(value.x), "r"(value.y), "r"(value.z), "r"(value.w), "r"(remote_address(own_barrier, rank))
      : "memory");
}
__device__ inline void send(uint32_t* own, uint64_t* own_barrier, uint32_t rank, uint2 value) {
  asm volatile(
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.b32 [%0], {%1, %2}, [%3];" ::"r"(
          remote_address(own, rank)),
      "r"(value.x), "r"(value.y), "r"(remote_address(own_barrier, rank))
      : "memory");
}
__device__ inline void send(uint32_t* own, uint64_t* own_barrier, uint32_t rank, uint32_t value) {
  asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %1, [%2];" ::"r"(
                   remote_address(own, rank)),
               "r"(value), "r"(remote_address(own_barrier, rank))
               : "memory");
}
__device__ inline void mbarrier_wait_cluster(uint64_t* barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}\n" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}

/// max(0, x) that keeps a NaN.
__device__ inline float relu(float x) {
  float y;
  asm("max.NaN.f32 %0, %1, 0f00000000;" : "=f"(y) : "f"(x));
  return y;
}

/// Arrives on a block's barrier, of this cluster, once this warp has read what the barrier lets be
/// overwritten. Not a release at the cluster's scope: that is a fence of global memory.
__device__ inline void mbarrier_arrive_at(uint64_t* own, uint32_t rank) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(remote_address(own, rank)) : "memory");
}

}  // namespace fulgur::cuda
