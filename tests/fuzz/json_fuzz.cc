// The short way through JSON beside the long way, which is a library's: what the short way takes is JSON, and
// both tell the same, to the end or to the event at which their reader stops.
//
// An input begins with a byte, after how many events the reader stops (255: never).

#include "checkpoint/header_events.h"
#include "checkpoint/plain_json.h"
#include "refusal.h"
#include "support/json_words.h"

namespace fulgur::fuzz {
namespace {

constexpr uint8_t kNever = 255;

void compare_words(std::string_view text, size_t most) {
  JsonWords plain(most);
  JsonWords all(most);
  const bool plainly = PlainJson(text, plain).read();
  const bool read = nlohmann::json::sax_parse(text, &all);
  check(plainly == read, "One reads on where the other stops", std::string(text));
  check(plain.text() == all.text(), "One tells another thing", plain.text() + "/ " + all.text());
}

void compare_headers(std::string_view text) {
  HeaderEvents short_way(0);
  HeaderEvents long_way(0);
  const bool plainly = PlainJson<JsonEvents>(text, short_way).read();
  const bool read = nlohmann::json::sax_parse(text, &long_way);
  check(plainly == read, "A header that only one reads", std::string(text));
  check(short_way.stopped_at() == long_way.stopped_at(), "Stopped at another tensor", short_way.stopped_at());
  const std::vector<DescribedTensor> some = short_way.take();
  const std::vector<DescribedTensor> others = long_way.take();
  const auto same = [](const DescribedTensor& a, const DescribedTensor& b) {
    return a.entry.name == b.entry.name && a.entry.dtype_name == b.entry.dtype_name &&
           a.entry.shape == b.entry.shape && a.begin == b.begin && a.end == b.end;
  };
  check(std::equal(some.begin(), some.end(), others.begin(), others.end(), same), "Another header",
        std::string(text));
}

void run(const uint8_t* data, size_t size) {
  if (size == 0) return;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  JsonWords nothing;
  const bool plain = is_plain_json(text);
  check(plain == PlainJson(text, nothing).read(), "A reader that never stops stopped", std::string(text));
  if (!plain) return;
  compare_words(text, data[0] == kNever ? std::numeric_limits<size_t>::max() : data[0]);
  compare_headers(text);
}

}  // namespace
}  // namespace fulgur::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fulgur::fuzz::run(data, size);
  return 0;
}
