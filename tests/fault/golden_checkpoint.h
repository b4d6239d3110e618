#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "support/checkpoint_files.h"

namespace fulgur {

/// All of tests/golden/data: three families in every storage form.
inline constexpr const char* kGoldens[] = {
    "v32-bf16", "v32-bf16-fused", "v32-fp8",      "v32-fp8-fused", "v32-nvfp4", "glm-bf16", "glm-bf16-fused",
    "glm-fp8",  "glm-fp8-fused",  "glm-nvfp4-ct", "v3-bf16",       "v3-fp8",    "v3-nvfp4"};

/// The module of a tensor: "a.b.weight" -> "a.b.".
std::string module_of(const std::string& tensor);
/// "a.b.weight" -> "weight".
std::string last_of(const std::string& tensor);
/// By its last component, of any storage form.
bool is_scale(const std::string& tensor);
/// Scales of activations: the checkpoint is as good without them.
bool is_unneeded(const std::string& tensor);

/// A golden as a value: damaged in memory, then written out. Shards that nobody touched are links to the
/// golden's.
class GoldenCheckpoint {
 public:
  /// Read once, copied for every use.
  static GoldenCheckpoint read(std::string_view golden);

  [[nodiscard]] const std::string& name() const { return name_; }

  /// All tensors whose name follows a pattern (checkpoint/parameter.h), by name.
  [[nodiscard]] std::vector<std::string> all(std::string_view pattern) const;
  /// The first of them.
  [[nodiscard]] std::optional<std::string> first(std::string_view pattern) const;
  /// The first of them that `holds`.
  [[nodiscard]] std::optional<std::string> first_that(
      std::string_view pattern, const std::function<bool(const TestTensor&)>& holds) const;
  [[nodiscard]] bool has(const std::string& tensor) const { return place_.contains(tensor); }
  [[nodiscard]] const TestTensor& at(const std::string& tensor) const;
  /// The name of the file that holds it.
  [[nodiscard]] const std::string& file_of(const std::string& tensor) const;
  [[nodiscard]] std::vector<std::string> files() const;
  /// Without the MTP layer.
  [[nodiscard]] int64_t num_layers() const { return num_layers_; }

  /// To be changed.
  TestTensor& change(const std::string& tensor);
  /// Another type and shape; its values are zeros.
  void store_as(const std::string& tensor, const std::string& dtype, const std::vector<int64_t>& shape);
  void erase(const std::string& tensor);
  /// With all scales beside it.
  void erase_module(const std::string& tensor);
  void rename(const std::string& tensor, const std::string& to);
  /// One more tensor of zeros, in the last shard.
  void add(const std::string& tensor, const std::string& dtype, const std::vector<int64_t>& shape);
  /// One more like `like`, values and all.
  void add_like(const std::string& tensor, const std::string& like);
  /// Distributes the tensors over two shards with an index, where there is one.
  void divide();
  /// What the index says from now on, whatever the shards hold.
  void freeze_index() { listed_ = listing(); }
  void list(const std::string& tensor, const std::string& file) { (*listed_)[tensor] = file; }
  void unlist(const std::string& file) {
    std::erase_if(*listed_, [&](const auto& entry) { return entry.second == file; });
  }
  void remove_index() { listed_.reset(), indexed_ = false; }
  /// One field of config.json, given as JSON; nothing: taken away. "a.b" is a field of a field.
  void set(const std::string& field, std::optional<std::string> json);
  /// A number of config.json; 0 where it is null or absent.
  [[nodiscard]] int64_t number(const std::string& field) const;
  /// Done to a shard's header text before it is written.
  void edit_header(const std::string& file, std::function<void(std::string&)> edit);
  /// Done to the folder after all else is written.
  void afterwards(std::function<void(const TemporaryFolder&)> action) {
    actions_.push_back(std::move(action));
  }

  void write(const TemporaryFolder& folder) const;

 private:
  struct Shard {
    std::string file;
    std::vector<TestTensor> tensors;
    bool touched = false;
    std::function<void(std::string&)> edit;
  };
  /// The shard and the tensor's number in it.
  struct Place {
    size_t shard = 0;
    size_t tensor = 0;
  };
  void find_places();
  [[nodiscard]] std::map<std::string, std::string> listing() const;
  void write_index(const TemporaryFolder& folder) const;

  std::string name_;
  int64_t num_layers_ = 0;
  std::string config_;
  std::vector<Shard> shards_;
  std::map<std::string, Place> place_;
  bool indexed_ = false;
  std::optional<std::map<std::string, std::string>> listed_;  // a frozen index
  std::vector<std::function<void(const TemporaryFolder&)>> actions_;
};

}  // namespace fulgur
