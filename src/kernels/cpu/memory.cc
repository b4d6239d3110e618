#include "kernels/cpu/memory.h"

#include <cstdlib>
#include <cstring>
#include <new>

namespace fulgur::cpu {
namespace {

constexpr size_t kAlignment = 64;

/// Of what a thread settles at a time: a huge page.
constexpr int64_t kGrainBytes = int64_t{2} << 20;

}  // namespace

void* allocate(size_t bytes) {
  void* data = std::aligned_alloc(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment);
  if (data == nullptr && bytes != 0) throw std::bad_alloc();
  return data;
}

void release(void* data) { std::free(data); }

void settle(ThreadTeam& team, void* data, size_t bytes) {
  team.run([&](int member) {
    const Share share = share_of(static_cast<int64_t>(bytes), member, team.size(), kGrainBytes);
    std::memset(static_cast<std::byte*>(data) + share.begin, 0, static_cast<size_t>(share.end - share.begin));
  });
}

void copy(void* to, const void* from, size_t bytes) { std::memcpy(to, from, bytes); }

}  // namespace fulgur::cpu
