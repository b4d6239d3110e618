#pragma once

#include <gtest/gtest.h>

#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/load_plan.h"
#include "stored_forms.h"

namespace fulgur {

constexpr int kThreads = 2;
constexpr int64_t kRows = 192;  // ragged blocks both ways
constexpr int64_t kCols = 320;
inline const std::vector<WeightForm> kAnyForm(std::begin(kAllForms), std::end(kAllForms));

inline Parameter matrix(const std::string& module, int64_t rows = kRows, int64_t cols = kCols,
                        std::vector<WeightForm> held_as = kAnyForm) {
  return {.name = module,
          .rows = rows,
          .cols = cols,
          .spellings = {{{module + ".weight", {{rows, "num_rows"}, {cols, "num_cols"}}}}},
          .held_as = std::move(held_as),
          .quantizable = true};
}

/// Checkpoints of one file, or of a shard for each tensor.
class FormTest : public ::testing::Test {
 protected:
  Catalog catalog(const std::vector<TestTensor>& tensors) {
    // Padded so that the first tensor is aligned, as writers of such files do.
    const size_t header_bytes = good_safetensors(tensors).find("}}") + 2;
    write_bytes(folder_ / "model.safetensors", good_safetensors(tensors, 8 - header_bytes % 8));
    return read_catalog(folder_.path());
  }
  Catalog catalog_of_shards(std::vector<TestTensor> tensors) {
    for (size_t i = 0; i < tensors.size(); ++i) {
      write_bytes(folder_ / fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, tensors.size()),
                  good_safetensors({tensors[i]}));
    }
    return read_catalog(folder_.path());
  }

  TemporaryFolder folder_;
};

}  // namespace fulgur
