#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>

#include "reference/model.h"
#include "reference/table.h"

namespace fulgur::reference {

/// Every tensor of a safetensors file, or of all such files of a folder but golden.safetensors:
/// floating-point or integer, widened to double. Vectors have one row.
std::map<std::string, Table> read_tensors(const std::filesystem::path& file_or_folder);

/// The tensors of a checkpoint by their names, dequantized, as the oracle's tables: `num_layers` layers, and
/// the MTP module where there is one. wk and weights_proj may be fused; a head that isn't there is tied.
ModelTables tables_of(const std::map<std::string, Table>& tensors, int num_layers,
                      const IndexerShape& indexer);

/// A checkpoint folder as the oracle's model, in any storage form of docs/spec/checkpoints.md but one FP8
/// scale a row or tensor. Knows just enough of config.json for the goldens and mini-v32, and believes what it
/// reads.
Model read_model(const std::filesystem::path& folder);

}  // namespace fulgur::reference
