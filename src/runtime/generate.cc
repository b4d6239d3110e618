#include "runtime/generate.h"

#include <algorithm>
#include <chrono>

namespace fulgur {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace

GenerateResult generate(Session& session, int sequence, const GenerateRequest& request,
                        const OnToken& on_token) {
  GenerateResult result;
  std::span<const int32_t> next = request.prompt;
  auto start = Clock::now();
  while (static_cast<int64_t>(result.ids.size()) < request.max_tokens) {
    const Work work{.sequence = sequence, .tokens = next, .sampling = &request.sampling};
    result.ids.push_back(session.run(std::span(&work, 1)).front());
    if (result.ids.size() == 1) {
      result.prompt_s = seconds_since(start);
      start = Clock::now();
    }
    const bool ended = std::ranges::find(request.stop_ids, result.ids.back()) != request.stop_ids.end();
    if (ended || !on_token(result.ids.back())) {
      result.finish = FinishReason::kStop;
      break;
    }
    next = std::span<const int32_t>(result.ids).last(1);
  }
  result.decode_s = result.ids.empty() ? 0 : seconds_since(start);
  return result;
}

}  // namespace fulgur
