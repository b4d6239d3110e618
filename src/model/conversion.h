#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/catalog.h"
#include "checkpoint/conversion_plan.h"
#include "checkpoint/load_plan.h"
#include "model/config.h"
#include "model/random_model.h"

namespace fulgur {

constexpr uint64_t kDefaultShardBytes = 5'000'000'000;

struct ConversionRequest {
  std::optional<TargetForm> form;     // empty: each module in the form in which it is stored
  std::optional<BlockScales> scales;  // of kFp8Block; empty: what the checkpoint's scale_fmt says, else f32
  Spelling spelling = Spelling::kAsStored;
  uint64_t shard_bytes = kDefaultShardBytes;
  int num_threads = 1;
};

/// What stands beside the tensors of a checkpoint.
struct SideFiles {
  std::string config;                         // the text of config.json
  std::string hf_quant_config;                // of hf_quant_config.json; empty where there is none
  std::vector<std::filesystem::path> others;  // copied as they are: the tokenizer's files, ...
};

struct ConversionReport {
  size_t num_files = 0;  // of tensors
  size_t num_tensors = 0;
  uint64_t bytes = 0;  // of tensors
  std::vector<std::string> notices;
};

/// Writes a checkpoint, MTP layer included, to the folder `destination`, which is not there yet or empty: it
/// appears whole and safely on disk, or not at all (base/pending_folder.h), and until then has no
/// config.json. Throws everything that is wrong with the checkpoint, before anything is written; what
/// checkpoint/convert_module.h says; bad_request for a spelling that the model doesn't have, and for files so
/// small that they are too many; io_error where `destination` can't be written or its disk has too little
/// room.
ConversionReport convert_checkpoint(const Config& config, const Catalog& catalog, const SideFiles& side_files,
                                    const std::filesystem::path& destination,
                                    const ConversionRequest& request, const LoadProgress& progress = nullptr);

/// The same of a checkpoint's folder. The other files of the folder go along, but for hidden ones and weights
/// of any format; its folders don't.
ConversionReport convert_folder(const std::filesystem::path& source, const std::filesystem::path& destination,
                                const ConversionRequest& request, const LoadProgress& progress = nullptr);

/// The same of a model without weights, whose tensors are drawn as they are written.
ConversionReport convert_random_model(const RandomWeights& wanted, const std::filesystem::path& destination,
                                      const ConversionRequest& request,
                                      const LoadProgress& progress = nullptr);

}  // namespace fulgur
