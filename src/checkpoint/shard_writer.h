#pragma once

#include <cstdint>
#include <span>

#include "base/pending_folder.h"
#include "checkpoint/convert_module.h"

namespace fulgur {

/// What the tensors of converted modules take.
uint64_t converted_bytes(std::span<const ConvertedModule> modules);

/// Throws bad_request where files of `shard_bytes` would be more than an index may list; it names a size that
/// is large enough.
void check_shard_size(std::span<const ConvertedModule> modules, uint64_t shard_bytes);

struct WrittenShards {
  size_t num_files = 0;
  size_t num_tensors = 0;
  size_t num_larger = 0;       // files of more than `shard_bytes`: of one module each
  uint64_t largest_bytes = 0;  // of a file
};

/// Writes modules, in their order, to safetensors files in `folder`: model.safetensors, or, where that may
/// have more than `shard_bytes`, model-00001-of-0000N.safetensors ... and the index. A module stays together,
/// also one that is larger. Each file is safely on disk when the next one is begun. Throws what
/// ModuleConverter::convert does, and io_error where a file can't be written. `progress` must not throw.
WrittenShards write_shards(const PendingFolder& folder, std::span<const ConvertedModule> modules,
                           uint64_t shard_bytes, ModuleConverter& converter, const LoadProgress& progress);

}  // namespace fulgur
