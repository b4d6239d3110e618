// Whatever is wrong with headers, index or config: a sentence, what was expected, what was found, what to do.

#include <gtest/gtest.h>

#include <functional>

#include "base/json.h"
#include "checkpoint/catalog.h"
#include "model/config.h"
#include "support/checkpoint_files.h"
#include "whole_problem.h"

namespace fulgur {
namespace {

constexpr const char* kSingle = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";

/// One fault, and the kind it has. `damage` changes a folder that holds config.json, and nothing else.
struct Refusal {
  const char* label;
  ErrorKind kind;
  std::function<void(const TemporaryFolder&)> damage;
};

void PrintTo(const Refusal& refusal, std::ostream* out) { *out << refusal.label; }

std::string good() { return good_safetensors({counting("a", DType::kF32, {2})}); }

Refusal header(const char* label, ErrorKind kind, const std::string& bytes) {
  return {label, kind, [=](const TemporaryFolder& folder) { write_bytes(folder / kSingle, bytes); }};
}

/// A header whose one entry is `a`.
Refusal entry(const char* label, std::string_view fields) {
  return header(label, ErrorKind::kBadHeader, raw_safetensors(fmt::format(R"({{"a":{}}})", fields), "xxxx"));
}

/// The index beside one good shard that holds `a`.
Refusal index(const char* label, const std::string& text) {
  return {label, ErrorKind::kBadIndex, [=](const TemporaryFolder& folder) {
            write_bytes(folder / kSingle, good());
            write_bytes(folder / kIndex, text);
          }};
}

/// Good shards, each with a tensor of its own, and no index.
Refusal files(const char* label, ErrorKind kind, const std::vector<std::string>& names) {
  return {label, kind, [=](const TemporaryFolder& folder) {
            for (const std::string& name : names) {
              write_bytes(folder / name, good_safetensors({counting(name, DType::kF32, {2})}));
            }
          }};
}

/// A change of one field of config.json.
Refusal field(const char* label, ErrorKind kind, const std::string& name, const Json& value) {
  return {label, kind, [=](const TemporaryFolder& folder) {
            write_bytes(folder / kSingle, good());
            Json config = read_json(folder / "config.json", ErrorKind::kBadConfig);
            if (value.is_discarded()) {
              config.erase(name);
            } else {
              config[name] = value;
            }
            write_bytes(folder / "config.json", config.dump());
          }};
}

/// A config.json of this text.
Refusal config_text(const char* label, const std::string& text) {
  return {label, ErrorKind::kBadConfig, [=](const TemporaryFolder& folder) {
            write_bytes(folder / kSingle, good());
            write_bytes(folder / "config.json", text);
          }};
}

class Refusals : public ::testing::TestWithParam<Refusal> {};

TEST_P(Refusals, SayWhatWasExpectedWhatWasFoundAndWhatToDo) {
  const TemporaryFolder folder;
  std::filesystem::copy_file(golden_folder("v32-bf16") / "config.json", folder / "config.json");
  GetParam().damage(folder);
  std::vector<Problem> problems = problems_of([&] { read_config(folder.path()); });
  for (Problem& problem : problems_of([&] { read_catalog(folder.path()); }))
    problems.push_back(std::move(problem));
  ASSERT_EQ(problems.size(), 1U) << summary(problems);
  const Problem& problem = problems.front();
  EXPECT_EQ(name(problem.kind), name(GetParam().kind)) << describe(problem);
  expect_whole(problem);
}

constexpr auto kHeader = ErrorKind::kBadHeader;
constexpr auto kTruncated = ErrorKind::kTruncatedFile;

INSTANTIATE_TEST_SUITE_P(
    OfHeaders, Refusals,
    ::testing::Values(
        header("an empty file", kTruncated, ""), header("a file of four bytes", kTruncated, "abcd"),
        header("a header that the file cuts", kTruncated, good().substr(0, 30)),
        header("a tensor that the file cuts", kTruncated, good().substr(0, good().size() - 1)),
        header("a length above the cap", kHeader, std::string(8, '\x7f')),
        header("a web page", kHeader, raw_safetensors("<html><body>404: not found</body></html>")),
        header("no header at all", kHeader, raw_safetensors("")),
        header("a list", kHeader, raw_safetensors("[]")),
        header("cut JSON", kHeader, raw_safetensors(R"({"a":{"dtype")")),
        header("a NUL", kHeader, raw_safetensors(std::string("{}\0", 3))),
        header("not UTF-8", kHeader, raw_safetensors("{\"\xff\":{}}")),
        header("metadata of numbers", kHeader, raw_safetensors(R"({"__metadata__":{"x":1}})")),
        header("metadata twice", kHeader, raw_safetensors(R"({"__metadata__":{},"__metadata__":{}})")),
        header("bytes left over", kHeader, good() + "x"),
        header("a tensor twice", kHeader,
               raw_safetensors(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
                               R"("a":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}})",
                               "xxxx")),
        header("an overlap", kHeader,
               raw_safetensors(R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},)"
                               R"("b":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}})",
                               "xxxx")),
        entry("a hole", R"({"dtype":"U8","shape":[2],"data_offsets":[2,4]})"),
        entry("a number for a tensor", "1"), entry("no dtype", R"({"shape":[4],"data_offsets":[0,4]})"),
        entry("no shape", R"({"dtype":"U8","data_offsets":[0,4]})"),
        entry("no offsets", R"({"dtype":"U8","shape":[4]})"),
        entry("a field too many", R"({"dtype":"U8","shape":[4],"data_offsets":[0,4],"x":1})"),
        entry("a dtype twice", R"({"dtype":"U8","dtype":"U8","shape":[4],"data_offsets":[0,4]})"),
        entry("a negative dimension", R"({"dtype":"U8","shape":[-4],"data_offsets":[0,4]})"),
        entry("a dimension of 2^63", R"({"dtype":"U8","shape":[9223372036854775808],"data_offsets":[0,4]})"),
        entry("a fraction", R"({"dtype":"U8","shape":[4.5],"data_offsets":[0,4]})"),
        entry("a size that overflows",
              R"({"dtype":"U8","shape":[4611686018427387905,4],"data_offsets":[0,4]})"),
        entry("three offsets", R"({"dtype":"U8","shape":[4],"data_offsets":[0,4,4]})"),
        entry("reversed offsets", R"({"dtype":"U8","shape":[4],"data_offsets":[4,0]})"),
        entry("a wrong byte count", R"({"dtype":"F32","shape":[4],"data_offsets":[0,4]})")));

INSTANTIATE_TEST_SUITE_P(
    OfIndexes, Refusals,
    ::testing::Values(
        index("empty", ""), index("a list", "[]"), index("cut", "{"), index("no weight_map", "{}"),
        index("an empty weight_map", R"({"weight_map":{}})"),
        index("a weight_map that is a list", R"({"weight_map":[]})"),
        index("a number for a file", R"({"weight_map":{"a":1}})"),
        index("weight_map twice", R"({"weight_map":{"a":"model.safetensors"},"weight_map":{}})"),
        index("a tensor twice", R"({"weight_map":{"a":"model.safetensors","\u0061":"model.safetensors"}})"),
        index("a file elsewhere", R"({"weight_map":{"a":"../model.safetensors"}})"),
        index("a file name that would color the terminal",
              R"({"weight_map":{"a":"model.safetensors","b":"\u001b[31m.safetensors"}})"),
        index("a file name with a DEL in it",
              R"({"weight_map":{"a":"model.safetensors","b":"two\u007f.safetensors"}})"),
        index("a file that is not there",
              R"({"weight_map":{"a":"model.safetensors","b":"two.safetensors"}})"),
        index("a tensor that no file holds",
              R"({"weight_map":{"a":"model.safetensors","b":"model.safetensors"}})"),
        Refusal{"a link that leads nowhere", ErrorKind::kBadIndex,
                [](const TemporaryFolder& folder) {
                  std::filesystem::create_symlink("nowhere", folder / kSingle);
                  write_bytes(folder / kIndex, R"({"weight_map":{"a":"model.safetensors"}})");
                }},
        Refusal{"a tensor in two shards", ErrorKind::kBadIndex, [](const TemporaryFolder& folder) {
                  write_bytes(folder / kSingle, good());
                  write_bytes(folder / "two", good_safetensors({counting("a", DType::kF32, {2}),
                                                                counting("b", DType::kF32, {1})}));
                  write_bytes(folder / kIndex, R"({"weight_map":{"a":"model.safetensors","b":"two"}})");
                }}));

INSTANTIATE_TEST_SUITE_P(
    OfFolders, Refusals,
    ::testing::Values(
        files("no checkpoint", ErrorKind::kIoError, {}),
        files("an incomplete set", ErrorKind::kBadIndex, {"model-00001-of-00002.safetensors"}),
        files("two sets", ErrorKind::kBadIndex,
              {"model-00001-of-00002.safetensors", "model-00002-of-00003.safetensors"}),
        files("a number of no set", ErrorKind::kBadIndex, {"model-00003-of-00002.safetensors"}),
        files("a number twice", ErrorKind::kBadIndex,
              {"model-1-of-2.safetensors", "model-00001-of-00002.safetensors"}),
        files("a set beside a file", ErrorKind::kBadIndex, {"model-1-of-1.safetensors", kSingle}),
        Refusal{"a folder in place of the file", ErrorKind::kIoError,
                [](const TemporaryFolder& folder) { std::filesystem::create_directory(folder / kSingle); }},
        Refusal{"a link to itself", ErrorKind::kIoError, [](const TemporaryFolder& folder) {
                  std::filesystem::create_symlink(kSingle, folder / kSingle);
                }}));

constexpr auto kConfig = ErrorKind::kBadConfig;
constexpr auto kUnsupported = ErrorKind::kUnsupported;
const Json kAbsent(Json::value_t::discarded);

INSTANTIATE_TEST_SUITE_P(
    OfConfigs, Refusals,
    ::testing::Values(
        field("no model_type", kConfig, "model_type", kAbsent),
        field("an unknown model_type", kUnsupported, "model_type", "llama"),
        field("no hidden_size", kConfig, "hidden_size", kAbsent),
        field("a size out of range", kConfig, "hidden_size", 0),
        field("a size that is a string", kConfig, "hidden_size", "144"),
        field("a number out of range", kConfig, "rms_norm_eps", 2),
        field("a flag that is a number", kConfig, "norm_topk_prob", 1),
        field("an activation", kUnsupported, "hidden_act", "gelu"),
        field("a bias", kUnsupported, "attention_bias", true),
        field("two layers of prediction", kUnsupported, "num_nextn_predict_layers", 2),
        field("groups that don't divide", kConfig, "n_group", 3),
        field("a list too short", kConfig, "mlp_layer_types", {"dense"}),
        field("an entry unknown", kConfig, "mlp_layer_types", {"moe"}),
        field("an indexer that reads nothing", kConfig, "q_lora_rank", nullptr),
        field("no layer 0", kConfig, "index_topk_pattern", "SFF"),
        field("rope of another kind", kUnsupported, "rope_scaling", {{"type", "linear"}, {"factor", 2}}),
        field("a method of quantization", kUnsupported, "quantization_config", {{"quant_method", "awq"}}),
        field("another architecture", kConfig, "architectures", {"LlamaForCausalLM"})));

INSTANTIATE_TEST_SUITE_P(
    OfConfigFiles, Refusals,
    ::testing::Values(config_text("a config that is a list", "[]"), config_text("an empty config", ""),
                      config_text("a cut config", "{"),
                      config_text("a config with a NUL", std::string("{}\0", 3)),
                      config_text("a key twice", R"({"model_type":"a","model_type":"a"})"),
                      config_text("a number past a double", R"({"model_type":1e999})"),
                      config_text("nested too deep", std::string(200, '[') + std::string(200, ']')),
                      Refusal{"no config", ErrorKind::kIoError,
                              [](const TemporaryFolder& folder) {
                                write_bytes(folder / kSingle, good());
                                std::filesystem::remove(folder / "config.json");
                              }},
                      Refusal{"a generation config that is a list", kConfig,
                              [](const TemporaryFolder& folder) {
                                write_bytes(folder / kSingle, good());
                                write_bytes(folder / "generation_config.json", "[]");
                              }}));

TEST(DuplicateTensors, OfOneHeaderAreNotSaidToLieInTwoShards) {
  const TemporaryFolder folder;
  write_bytes(folder / kSingle, raw_safetensors(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
                                                R"("a":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}})",
                                                "xxxx"));
  EXPECT_EQ(summary(problems_of([&] { read_catalog(folder.path()); })), "bad_header a");
}

}  // namespace
}  // namespace fulgur
