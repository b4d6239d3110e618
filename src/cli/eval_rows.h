#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "base/json.h"
#include "model/config.h"
#include "tokenizer/tokenizer.h"

namespace fulgur::cli {

/// One row of a file for fulgur eval: either a prompt with its answer, or ids.
struct Row {
  Json id;
  std::vector<int32_t> ids;
  std::string answer;
  bool has_solution = false;
};

struct Rows {
  bool likelihood = false;  // they hold ids
  std::vector<Row> rows;
  size_t prompt_bytes = 0;  // of their texts

  /// New tokens that a row may ask for.
  [[nodiscard]] int64_t new_tokens(const Row& row, int64_t most, const Config& config) const {
    if (likelihood) return 0;
    return std::min(most, config.max_position_embeddings - static_cast<int64_t>(row.ids.size()));
  }
};

/// The first `limit` rows of a file of JSON lines (-1: all), all of one kind. Throws bad_request for a line
/// that this model (its tokenizer, or null) can't run, and for a file without rows.
Rows read_rows(const std::string& file, int64_t limit, const Config& config, const Tokenizer* tokenizer);

}  // namespace fulgur::cli
