// model.safetensors.index.json beside two good shards.

#include "checkpoint/catalog.h"
#include "checkpoint/shard_index.h"
#include "refusal.h"
#include "support/checkpoint_files.h"

namespace fulgur::fuzz {
namespace {

/// The seeds list these shards.
class Folder {
 public:
  Folder() {
    write_bytes(folder_ / "model-00001-of-00002.safetensors",
                good_safetensors({counting("lm_head.weight", DType::kBf16, {2}),
                                  counting("model.embed_tokens.weight", DType::kF32, {1, 2})}));
    write_bytes(folder_ / "model-00002-of-00002.safetensors",
                good_safetensors({counting("model.norm.weight", DType::kBf16, {2}),
                                  counting("model.layers.0.mlp.gate.weight", DType::kF32, {1, 2})}));
    std::filesystem::create_symlink("model-00002-of-00002.safetensors", folder_ / "link");
    std::filesystem::create_symlink("loop", folder_ / "loop");
    std::filesystem::create_directory(folder_ / "folder");
  }
  [[nodiscard]] const TemporaryFolder& operator*() const { return folder_; }

 private:
  TemporaryFolder folder_;
};

void run(const uint8_t* data, size_t size) {
  static const Folder folder;
  write_bytes(*folder / kIndexFile, {reinterpret_cast<const char*>(data), size});
  try_out([&] {
    const Catalog catalog = read_catalog((*folder).path());
    check(!catalog.entries.empty(), "An index that lists nothing");
    for (size_t i = 1; i < catalog.entries.size(); ++i)
      check(catalog.entries[i - 1].name < catalog.entries[i].name, "A name twice", catalog.entries[i].name);
    for (const std::string& notice : catalog.notices) check_printable(notice);
  });
}

}  // namespace
}  // namespace fulgur::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fulgur::fuzz::run(data, size);
  return 0;
}
