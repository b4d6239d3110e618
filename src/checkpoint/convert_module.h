#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/thread_team.h"
#include "checkpoint/catalog.h"
#include "checkpoint/conversion_plan.h"

namespace fulgur {

/// Takes bytes of a module's tensor `tensor`, from `offset` on.
using TensorSink = std::function<void(size_t tensor, uint64_t offset, std::span<const std::byte> bytes)>;

/// Executes a conversion plan module by module, on a team of threads, holding some 32 MiB of a module's
/// values at a time.
class ModuleConverter {
 public:
  ModuleConverter(const Catalog& catalog, int num_threads) : catalog_(catalog), team_(num_threads) {}

  /// Every byte of every tensor of the module goes to the sink once, from the calling thread. Throws
  /// bad_value where a value that is to be rewritten is, or would become, a NaN or an infinity, or codes that
  /// are copied become one under their scales; bad_scale for a scale that none may be, and io_error if a file
  /// was changed meanwhile.
  void convert(const ConvertedModule& module, const TensorSink& sink);

 private:
  class Computation;
  /// What is copied must load.
  void check_scale(const ConvertedTensor& tensor) const;
  void copy(const ConvertedTensor& tensor, size_t number, const TensorSink& sink);
  /// Where they lie in a file, or drawn: until the next call.
  std::span<const std::byte> piece_of(const CatalogEntry& entry, uint64_t begin, uint64_t bytes);
  /// The pages that it was made from, lest a conversion hold its whole source.
  void release(const ConvertedModule& module) const;
  void write_reciprocal(const ConvertedTensor& tensor, size_t number, const TensorSink& sink) const;

  const Catalog& catalog_;
  ThreadTeam team_;
  std::vector<std::byte> drawn_;
};

}  // namespace fulgur
