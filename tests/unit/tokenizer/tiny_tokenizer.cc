#include "tiny_tokenizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "tokenizer/byte_alphabet.h"

namespace fulgur {
namespace {

Json added(int id, const std::string& content, bool special) {
  return {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", special}};
}

}  // namespace

Json tiny_tokenizer() {
  Json vocab = {{"ab", 256}, {"abc", 257}};
  for (int byte = 0; byte < 256; ++byte) vocab[byte_alphabet::spell(static_cast<unsigned char>(byte))] = byte;
  const Json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}};
  const Json split = {
      {"type", "Split"}, {"pattern", {{"Regex", " ?\\p{L}+"}}}, {"behavior", "Isolated"}, {"invert", false}};
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", {added(258, "<s>", true), added(259, "<u>", false)}},
          {"normalizer", nullptr},
          {"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", {split, byte_level}}}},
          {"post_processor", nullptr},
          {"decoder", byte_level},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"ignore_merges", false},
            {"vocab", vocab},
            {"merges", Json::array({Json::array({"a", "b"}), Json::array({"ab", "c"})})}}}};
}

std::string write_tokenizer(const Json& tokenizer, const Json& config) {
  const auto* const test = testing::UnitTest::GetInstance()->current_test_info();
  std::string name = std::string(test->test_suite_name()) + "." + test->name();
  std::replace(name.begin(), name.end(), '/', '.');
  const std::filesystem::path folder = std::filesystem::path(testing::TempDir()) / "fulgur_tokenizer" / name;
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  std::ofstream(folder / "tokenizer.json") << tokenizer.dump();
  if (!config.is_null()) std::ofstream(folder / "tokenizer_config.json") << config.dump();
  return folder;
}

}  // namespace fulgur
