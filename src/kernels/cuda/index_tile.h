#pragma once

// How index keys and queries lie for the matrix unit, as functions that both the kernels and their host tests
// call.
//
// A product takes the 64 keys of a page as A from registers and the heads of one query as B from shared
// memory, 32 e4m3 components at a time. The components may go in any order that is the same in A and B. It is
// chosen so that a thread reads its share of A in whole vectors of 16 bytes from a page as the cache holds it
// (rows of 128 bytes, not swizzled): step i of four takes word i of each of a key's eight 16-byte chunks. The
// queries are written to shared memory in that order, once a query.

#include <cstddef>
#include <cstdint>

namespace fulgur::cuda {

constexpr int kPageKeys = 64;
constexpr int kKeyBytes = 128;  // of a key, or a head of a query: one swizzled row of B
constexpr size_t kIndexPageBytes = kPageKeys * (kKeyBytes + sizeof(float));  // codes, then scales
constexpr int kProductSteps = 4;
constexpr int kKeyChunks = 8;  // of 16 bytes
constexpr int kWordsPerChunk = 4;

/// Which of the eight chunks of a key a thread reads first and second: rows of 128 bytes lie on the same
/// banks, so odd rows go the other way round. `quad` is lane % 4.
constexpr int first_chunk(int row, int quad) { return quad + 4 * (row & 1); }
constexpr int second_chunk(int row, int quad) { return quad + 4 * ((row & 1) ^ 1); }

/// Byte, from the start of B, of word `word` of chunk `chunk` of a head: [heads][128 bytes], each row's
/// 16-byte units exchanged by the 128-byte swizzle.
constexpr uint32_t query_word_offset(int head, int chunk, int word) {
  const int place = word * kKeyChunks + chunk;  // in words of the row
  const int unit = (place / kWordsPerChunk) ^ (head & 7);
  return static_cast<uint32_t>(head * kKeyBytes + unit * 16 + place % kWordsPerChunk * 4);
}
/// Where step `step` of a product finds B.
constexpr uint32_t query_step_offset(int step) { return static_cast<uint32_t>(step * 32); }

}  // namespace fulgur::cuda
