#include "runtime/stop_filter.h"

#include <algorithm>
#include <utility>

namespace fulgur {

StopFilter::StopFilter(std::vector<std::string> stops) : stops_(std::move(stops)) {}

std::string StopFilter::push(std::string_view text) {
  if (stopped_) return "";
  held_ += text;
  std::pair<size_t, size_t> first{std::string::npos, 0};  // end and begin of the stop text that ends first
  for (const std::string& stop : stops_) {
    if (const size_t at = held_.find(stop); at != std::string::npos) {
      first = std::min(first, std::pair(at + stop.size(), at));
    }
  }
  if (first.first != std::string::npos) {
    stopped_ = true;
    return std::exchange(held_, "").substr(0, first.second);
  }
  // The longest end of the text that some stop string begins with stays back.
  size_t keep = 0;
  for (const std::string& stop : stops_) {
    for (size_t n = std::min(stop.size() - 1, held_.size()); n > keep; --n) {
      if (held_.ends_with(std::string_view(stop).substr(0, n))) keep = n;
    }
  }
  std::string shown = held_.substr(0, held_.size() - keep);
  held_.erase(0, shown.size());
  return shown;
}

std::string StopFilter::finish() { return stopped_ ? "" : std::exchange(held_, ""); }

}  // namespace fulgur
