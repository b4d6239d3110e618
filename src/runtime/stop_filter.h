#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace fulgur {

/// Passes text through until one of the stop strings appears, holding back what may be the beginning of one.
class StopFilter {
 public:
  explicit StopFilter(std::vector<std::string> stops);

  /// Takes new text; returns what may be shown of it and of what was held back. Nothing after a stop string.
  std::string push(std::string_view text);
  /// The end of the text: what was held back.
  std::string finish();
  [[nodiscard]] bool stopped() const { return stopped_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace fulgur
