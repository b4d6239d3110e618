// Many threads use one engine at once: what the thread sanitizer is to see.

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <random>
#include <thread>
#include <vector>

#include "fulgur/engine.h"
#include "model/load.h"
#include "runtime/scheduler.h"
#include "runtime/step_runner.h"

namespace fulgur {
namespace {

using Ids = std::vector<int32_t>;

class EngineClients : public testing::Test {
 protected:
  EngineClients() {
    std::mt19937 random(5);
    for (const int length : {5, 40, 70, 100}) {
      Request& r = requests_.emplace_back();
      r.prompt.resize(static_cast<size_t>(length));
      for (int32_t& id : r.prompt)
        id = static_cast<int32_t>(random() % static_cast<uint32_t>(model_.config.vocab_size));
      r.max_tokens = 20;
      r.ignore_end_tokens = true;
      alone_.push_back(engine_.submit(r).wait().ids);
    }
  }

  /// Waits for a request's end, or cancels it after some of its tokens.
  void use_engine(std::mt19937& random) {
    const size_t i = random() % requests_.size();
    Generation generation = engine_.submit(requests_[i]);
    const auto wanted = static_cast<size_t>(random() % 40);
    Ids heard;
    while (heard.size() < wanted) {
      const auto token = generation.next();
      if (!token) break;
      heard.push_back(token->id);
    }
    if (random() % 4 == 0) return;  // nobody waits for it any more
    generation.cancel();
    const Completion completion = generation.wait();
    const Ids& ids = completion.ids;
    EXPECT_TRUE(ids.size() <= alone_[i].size() && std::equal(ids.begin(), ids.end(), alone_[i].begin()));
    EXPECT_TRUE(heard.size() <= ids.size() && std::equal(heard.begin(), heard.end(), ids.begin()));
    EXPECT_EQ(completion.finish == FinishReason::kLength, ids.size() == alone_[i].size());
  }

  static constexpr int kPages = 6;
  LoadedModel model_ = load_model(std::filesystem::path(FULGUR_SOURCE_DIR) / "tests/golden/data/glm-bf16",
                                  LoadOptions{.mtp = true}, 2);
  Engine engine_{model_,
                 nullptr,
                 {.threads = 2, .num_pages = kPages, .num_drafts = 1},
                 {.num_pages = kPages, .step_tokens = 64, .max_running = 4}};
  std::vector<Request> requests_;
  std::vector<Ids> alone_;
};

TEST_F(EngineClients, EachGetsItsTextThoughManySubmitAndCancelAtOnce) {
  constexpr int kRounds = 12;
  std::vector<std::thread> clients;
  for (uint32_t seed = 0; seed < 4; ++seed) {
    clients.emplace_back([this, seed] {
      std::mt19937 random(seed);
      for (int round = 0; round < kRounds; ++round) use_engine(random);
    });
  }
  for (std::thread& client : clients) client.join();
  for (size_t i = 0; i < requests_.size(); ++i) EXPECT_EQ(engine_.submit(requests_[i]).wait().ids, alone_[i]);
}

}  // namespace
}  // namespace fulgur
