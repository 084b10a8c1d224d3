// Text that ends before a given one comes: what may yet become one of these is held back.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace language {

class StopTexts {
 public:
  explicit StopTexts(std::vector<std::string> stops) : stops_(std::move(stops)) {}

  // What may be shown once `text` has come. From the first stop on nothing comes any more.
  std::string push(std::string_view text) {
    if (stopped_) return {};
    waiting_ += text;
    std::size_t end = std::string::npos;
    for (const std::string& stop : stops_) end = std::min(end, waiting_.find(stop));
    if (end != std::string::npos) stopped_ = true;
    else end = waiting_.size() - held_back();
    std::string shown = waiting_.substr(0, end);
    waiting_.erase(0, end);
    return shown;
  }
  // What was held back of a text that ends here.
  std::string finish() { return stopped_ ? std::string() : std::exchange(waiting_, {}); }

  bool stopped() const { return stopped_; }

 private:
  // The longest end of what waits that a stop begins with.
  std::size_t held_back() const {
    std::size_t longest = 0;
    for (const std::string& stop : stops_)
      for (std::size_t n = std::min(stop.size() - 1, waiting_.size()); n > longest; --n)
        if (std::string_view(waiting_).ends_with(std::string_view(stop).substr(0, n))) longest = n;
    return longest;
  }

  std::vector<std::string> stops_;
  std::string waiting_;
  bool stopped_ = false;
};

}  // namespace language
