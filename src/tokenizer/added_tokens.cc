#include "tokenizer/added_tokens.h"

#include <algorithm>

#include "tokenizer/unicode.h"
#include "tokenizer/utf8.h"

namespace fulgur {
namespace {

/// Where the last character of a text that isn't empty begins.
size_t last_character(std::string_view text) {
  size_t at = text.size() - 1;
  while (at > 0 && (static_cast<uint8_t>(text[at]) & 0xC0) == 0x80) --at;
  return at;
}

bool ends_in_word(std::string_view text) {
  return !text.empty() && unicode::word().contains(next_utf8(text.substr(last_character(text))).code_point);
}

bool begins_with_word(std::string_view text) {
  return !text.empty() && unicode::word().contains(next_utf8(text).code_point);
}

/// Where the white space at the end of `text` begins.
size_t begin_of_trailing_space(std::string_view text) {
  while (!text.empty()) {
    const size_t last = last_character(text);
    if (!unicode::space().contains(next_utf8(text.substr(last)).code_point)) break;
    text = text.substr(0, last);
  }
  return text.size();
}

size_t length_of_leading_space(std::string_view text) {
  size_t length = 0;
  while (length < text.size()) {
    const Utf8Step step = next_utf8(text.substr(length));
    if (!unicode::space().contains(step.code_point)) break;
    length += step.length;
  }
  return length;
}

}  // namespace

AddedTokenFinder::AddedTokenFinder(const std::vector<std::pair<std::string, AddedToken>>& tokens)
    : nodes_(1) {
  for (const auto& [text, token] : tokens) {
    uint32_t node = 0;
    for (const char byte : text) {
      const auto [child, is_new] = nodes_[node].next.try_emplace(byte, static_cast<uint32_t>(nodes_.size()));
      node = child->second;
      if (is_new) nodes_.emplace_back();
    }
    nodes_[node].token = static_cast<int32_t>(tokens_.size());
    tokens_.push_back(token);
    starts_token_[static_cast<uint8_t>(text[0])] = true;
  }
}

AddedTokenFinder::Match AddedTokenFinder::longest_at(std::string_view text, size_t begin) const {
  Match longest;
  uint32_t node = 0;
  for (size_t at = begin; at < text.size(); ++at) {
    const auto child = nodes_[node].next.find(text[at]);
    if (child == nodes_[node].next.end()) break;
    node = child->second;
    if (nodes_[node].token >= 0) longest = {at + 1, nodes_[node].token};
  }
  return longest;
}

std::vector<AddedTokenSplit> AddedTokenFinder::split(std::string_view text) const {
  std::vector<AddedTokenSplit> parts;
  size_t done = 0;
  for (size_t at = 0; at < text.size();) {
    const Match match = starts_token_[static_cast<uint8_t>(text[at])] ? longest_at(text, at) : Match{};
    if (match.token < 0) {
      ++at;
      continue;
    }
    const AddedToken& token = tokens_[static_cast<size_t>(match.token)];
    size_t begin = at;
    size_t end = match.end;
    at = match.end;  // the search goes on there, whether this occurrence counts or not
    if (token.single_word && (ends_in_word(text.substr(0, begin)) || begins_with_word(text.substr(end))))
      continue;
    // White space that the token before took in stays with it.
    if (token.lstrip) begin = std::max(begin_of_trailing_space(text.substr(0, begin)), done);
    if (token.rstrip) end += length_of_leading_space(text.substr(end));
    if (done < begin) parts.push_back({text.substr(done, begin - done), std::nullopt});
    parts.push_back({text.substr(begin, begin < end ? end - begin : 0), token.id});
    done = end;
  }
  if (done < text.size()) parts.push_back({text.substr(done), std::nullopt});
  return parts;
}

}  // namespace fulgur
