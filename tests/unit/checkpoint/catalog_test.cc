#include "checkpoint/catalog.h"

#include <gtest/gtest.h>

#include "support/checkpoint_files.h"

namespace fulgur {
namespace {

struct Known {
  const char* folder;
  size_t num_files;
  size_t num_tensors;
};

class GoldenCatalog : public ::testing::TestWithParam<Known> {};

TEST_P(GoldenCatalog, HoldsEveryTensorOfItsShards) {
  const Catalog catalog = read_catalog(std::filesystem::path(FULGUR_SOURCE_DIR) / GetParam().folder);
  EXPECT_EQ(catalog.files.size(), GetParam().num_files);
  EXPECT_EQ(catalog.entries.size(), GetParam().num_tensors);
}

INSTANTIATE_TEST_SUITE_P(Plain, GoldenCatalog,
                         ::testing::Values(Known{"models/mini-v32", 1, 241},
                                           Known{"tests/golden/data/v32-bf16", 1, 106},
                                           Known{"tests/golden/data/v32-bf16-fused", 1, 103},
                                           Known{"tests/golden/data/glm-bf16", 2, 121},
                                           Known{"tests/golden/data/glm-bf16-fused", 1, 118},
                                           Known{"tests/golden/data/v3-bf16", 1, 79}));

}  // namespace
}  // namespace fulgur
