#include "fulgur/engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <map>
#include <new>
#include <system_error>
#include <thread>
#include <utility>

#include "base/remedy.h"
#include "base/thread_stack.h"
#include "model/load.h"
#include "runtime/plan_engine.h"
#include "runtime/prompt.h"
#include "runtime/request_check.h"
#include "runtime/request_state.h"
#include "runtime/scheduler.h"
#include "runtime/step_runner.h"
#include "tokenizer/tokenizer.h"

namespace fulgur {
namespace {

template <typename Body>
std::thread start_thread(Body body) {
  try {
    return std::thread(std::move(body));
  } catch (const std::system_error& error) {
    throw Error(Problem{.kind = ErrorKind::kDevice,
                        .message = "The thread that runs the model can't be started.",
                        .expected = "one beside those that compute",
                        .found = error.code().message(),
                        .todo = std::string(kFewerThreads)});
  }
}

}  // namespace

/// The engine's thread takes requests from the inbox and runs steps while there are any.
class Engine::Impl {
 public:
  Impl(const LoadedModel& model, const Tokenizer* tokenizer, const RunnerOptions& runner,
       const SchedulerOptions& scheduler, const RequestRoom& room)
      : tokenizer_(tokenizer),
        room_(room),
        runner_(model, runner),
        scheduler_(scheduler),
        num_pages_(scheduler.num_pages),
        likeliest_(room.step_logprobs),
        thread_(start_thread([this] {
          settle_stack(runner_.backend().stack_bytes);
          while (receive()) {
            try {
              step();
            } catch (...) {  // std::bad_alloc say
              fail_all(std::current_exception());
            }
          }
        })) {}

  /// With a model of its own.
  struct Owned {
    LoadedModel model;
    std::optional<Tokenizer> tokenizer;
  };
  Impl(std::unique_ptr<const Owned> owned, const RunnerOptions& runner, const SchedulerOptions& scheduler,
       const RequestRoom& room)
      : Impl(owned->model, owned->tokenizer ? &*owned->tokenizer : nullptr, runner, scheduler, room) {
    owned_ = std::move(owned);
  }

  ~Impl() {
    if (std::this_thread::get_id() == thread_.get_id()) {
      std::fputs(
          "fulgur: an Engine was destroyed from one of its callbacks, which run on the thread that it waits "
          "for.\n",
          stderr);
      std::terminate();
    }
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_one();
    thread_.join();
  }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  std::vector<std::shared_ptr<RequestState>> submit(std::vector<Request> requests) {
    for (const Request& request : requests) {
      check_request(request, runner_.config(), tokenizer_ != nullptr);
      check_room(request);
      check_length(request);
    }
    std::vector<std::shared_ptr<RequestState>> states;
    for (Request& request : requests)
      states.push_back(std::make_shared<RequestState>(std::move(request), runner_.config(), tokenizer_));
    const std::lock_guard lock(mutex_);
    for (const std::shared_ptr<RequestState>& state : states) state->set_id(next_id_++);
    inbox_.insert(inbox_.end(), states.begin(), states.end());
    wake_.notify_one();
    return states;
  }

  [[nodiscard]] const Tokenizer& tokenizer() const {
    if (tokenizer_ == nullptr) {
      throw Error(Problem{.kind = ErrorKind::kBadRequest,
                          .message = "This model has no tokenizer.json, so it knows no text.",
                          .todo = "work with token ids"});
    }
    return *tokenizer_;
  }
  StepRunner& runner() { return runner_; }

 private:
  void check_room(const Request& request) const {
    if (!room_.prompt_logits && request.on_prompt_logits != nullptr) {
      throw Error(Problem{.kind = ErrorKind::kBadRequest,
                          .message = "This engine was made without room for the logits of prompts.",
                          .expected = "requests without on_prompt_logits",
                          .found = "one that has it",
                          .todo = "make the engine with EngineOptions::prompt_logits"});
    }
    if (request.num_logprobs > room_.max_logprobs) {
      throw Error(Problem{.kind = ErrorKind::kBadRequest,
                          .message = "This engine was made without room for so many logprobs of a token.",
                          .expected = fmt::format("num_logprobs of at most {}", room_.max_logprobs),
                          .found = fmt::format("{}", request.num_logprobs),
                          .todo = "ask for fewer, or make the engine with more EngineOptions::max_logprobs"});
    }
  }

  void check_length(const Request& request) const {
    const int64_t tokens = most_cached_tokens(request);
    const int64_t room = int64_t{num_pages_} * kPageTokens;
    if (tokens <= room) return;
    throw Error(Problem{
        .kind = ErrorKind::kBadRequest,
        .message = "The caches are too small for this request.",
        .expected = fmt::format("at most {} tokens", room),
        .found = fmt::format("{} prompt tokens and {} new ones", request.prompt.size(), request.max_tokens),
        .todo = "shorten the prompt or ask for fewer new tokens"});
  }

  /// Takes what was submitted, waiting for it if there is nothing else to do. False: it is time to end.
  bool receive() noexcept {
    std::vector<std::shared_ptr<RequestState>> submitted;
    bool stopping = false;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return stopping_ || !inbox_.empty() || !requests_.empty(); });
      submitted.swap(inbox_);
      stopping = stopping_;
    }
    for (const std::shared_ptr<RequestState>& state : submitted) add(state);
    if (!stopping) return true;
    for (const auto& [id, state] : requests_) state->finish(FinishReason::kCancelled);
    return false;
  }

  void add(const std::shared_ptr<RequestState>& state) noexcept {
    try {
      requests_.emplace(state->id(), state);
      scheduler_.add(state->id(), state->take_prompt(), state->request().on_prompt_logits == nullptr);
    } catch (...) {
      state->fail(std::current_exception());
      forget(state->id());
    }
  }

  void step() {
    drop_cancelled();
    const BatchPlan plan = scheduler_.plan();
    if (plan.chunks.empty()) return;
    for (const BatchPlan::Admission& admission : plan.admitted) {
      runner_.forget(admission.request);  // it may have been set back
      requests_.at(admission.request)->admitted(admission.cached_tokens);
    }
    std::vector<ChunkResult> results;
    results.reserve(plan.chunks.size());
    for (ChunkRun& run : run(plan)) {
      results.push_back({.drawn = std::move(run.drawn), .drafts = std::move(run.drafts)});
    }
    scheduler_.complete(plan, results);
    for (size_t i = 0; i < results.size(); ++i) {
      constexpr size_t kAhead = 2;  // the model has driven them out of the caches
      if (i + kAhead < results.size() && in_step_[i + kAhead] != nullptr) in_step_[i + kAhead]->prefetch();
      if (in_step_[i] != nullptr) deliver(*in_step_[i], plan.chunks[i], results[i].drawn);
    }
  }

  void drop_cancelled() {
    for (auto at = requests_.begin(); at != requests_.end();) {
      const auto& [id, state] = *at++;
      if (!state->cancelled()) continue;
      state->finish(FinishReason::kCancelled);
      forget(id);
    }
  }

  /// Runs a step. Requests that fail end here, and have gone when it returns.
  std::vector<ChunkRun> run(const BatchPlan& plan) {
    in_step_.clear();
    likeliest_.clear();
    for (const PlannedChunk& chunk : plan.chunks) in_step_.push_back(requests_.at(chunk.request).get());
    std::vector<ChunkRun> runs;
    try {
      runs = runner_.run(plan, outputs(plan));
    } catch (...) {
      runs = run_one_by_one(plan, std::current_exception());
    }
    for (size_t i = 0; i < runs.size(); ++i) {
      if (in_step_[i] == nullptr) continue;
      if (const std::exception_ptr& error = in_step_[i]->callback_error()) {
        fail_in_step(i, error);
        continue;
      }
      if (runs[i].fault == ChunkFault::kNone) continue;
      // A prompt alone has nothing drawn: whoever wants its logits judges them.
      if (runs[i].fault == ChunkFault::kBadLogits && in_step_[i]->request().max_tokens == 0) continue;
      fail_in_step(i, std::make_exception_ptr(Error(problem_of(runs[i].fault))));
    }
    return runs;
  }

  /// Something threw, and it isn't known whose fault it is: each chunk is run alone, and those that throw
  /// again fail. A step changes nothing but the entries of its own tokens, so it can be repeated.
  std::vector<ChunkRun> run_one_by_one(const BatchPlan& plan, const std::exception_ptr& error) {
    likeliest_.clear();
    std::vector<ChunkRun> runs(plan.chunks.size());
    if (plan.chunks.size() == 1) {
      fail_in_step(0, error);
      return runs;
    }
    for (size_t i = 0; i < plan.chunks.size(); ++i) {
      try {
        const BatchPlan alone{.chunks = {plan.chunks[i]}};
        const ChunkOutput output = in_step_[i]->output(alone.chunks.front(), likeliest_);
        runs[i] = std::move(runner_.run(alone, std::span(&output, 1)).front());
      } catch (...) {
        fail_in_step(i, std::current_exception());
      }
    }
    return runs;
  }

  std::vector<ChunkOutput> outputs(const BatchPlan& plan) {
    std::vector<ChunkOutput> outputs;
    outputs.reserve(plan.chunks.size());
    for (size_t i = 0; i < plan.chunks.size(); ++i)
      outputs.push_back(in_step_[i]->output(plan.chunks[i], likeliest_));
    return outputs;
  }

  void deliver(RequestState& state, const PlannedChunk& chunk, std::span<const int32_t> drawn) {
    const RequestId id = chunk.request;
    if (drawn.empty()) return;
    try {
      state.verified(chunk.num_drafts, static_cast<int64_t>(drawn.size()) - 1);
      const std::optional<FinishReason> reason = state.take(drawn, likeliest_);
      if (!reason) return;
      runner_.check_files();
      state.finish(*reason);
      forget(id);
    } catch (...) {  // of its on_token, or of files that changed
      fail(id, std::current_exception());
    }
  }

  void fail(RequestId id, std::exception_ptr error) noexcept {
    requests_.at(id)->fail(std::move(error));
    forget(id);
  }

  /// What its own callback threw came before `error`.
  void fail_in_step(size_t chunk, std::exception_ptr error) noexcept {
    if (const std::exception_ptr& first = in_step_[chunk]->callback_error()) error = first;
    fail(in_step_[chunk]->id(), std::move(error));
    in_step_[chunk] = nullptr;
  }

  /// What no request is to blame for.
  void fail_all(const std::exception_ptr& error) noexcept {
    while (!requests_.empty()) fail(requests_.begin()->first, error);
  }

  void forget(RequestId id) noexcept {
    scheduler_.remove(id);
    runner_.forget(id);
    requests_.erase(id);
  }

  std::unique_ptr<const Owned> owned_;
  const Tokenizer* tokenizer_;
  const RequestRoom room_;
  StepRunner runner_;
  Scheduler scheduler_;
  const int num_pages_;
  std::map<RequestId, std::shared_ptr<RequestState>> requests_;  // the engine thread's, as what follows
  std::vector<TokenLogprob> likeliest_;  // of the step's tokens; its memory is kept for the next
  std::vector<RequestState*> in_step_;   // of each chunk of the step that runs; null: it has failed

  std::mutex mutex_;  // guards what follows
  std::condition_variable wake_;
  std::vector<std::shared_ptr<RequestState>> inbox_;
  RequestId next_id_ = 0;
  bool stopping_ = false;

  std::thread thread_;  // after all that it uses
};

Engine::Engine(const LoadedModel& model, const Tokenizer* tokenizer, const RunnerOptions& runner,
               const SchedulerOptions& scheduler)
    : impl_(std::make_unique<Impl>(model, tokenizer, runner, scheduler, RequestRoom{})) {}

Engine::Engine(const std::string& folder, const EngineOptions& options) {
  EnginePlan plan = plan_engine(folder, options);
  check_fits(plan.need);
  try {
    auto owned = std::make_unique<Impl::Owned>();
    owned->tokenizer = std::move(plan.tokenizer);
    owned->model = load(std::move(plan.planned), plan.runner.threads);
    impl_ = std::make_unique<Impl>(std::move(owned), plan.runner, plan.scheduler, plan.room);
  } catch (const std::bad_alloc&) {
    throw Error(
        Problem{.kind = ErrorKind::kDevice,
                .file = folder,
                .message = "The memory ran out while this model was loaded and its caches were made.",
                .expected = fmt::format("room for {} bytes, which was there before", plan.need.allocated()),
                .found = "less: others took of it, or a limit of the process counts address space",
                .todo = "ask for smaller caches or fewer threads, or raise the limits"});
  }
}

Engine::~Engine() = default;

Generation Engine::submit(Request request) {
  std::vector<Request> requests;
  requests.push_back(std::move(request));
  return submit_all(std::move(requests)).front();
}

std::vector<Generation> Engine::submit_all(std::vector<Request> requests) {
  std::vector<Generation> generations;
  for (std::shared_ptr<RequestState>& state : impl_->submit(std::move(requests))) {
    generations.push_back(Generation(std::move(state)));
  }
  return generations;
}

std::vector<int32_t> Engine::encode(std::string_view text) const {
  return encode_prompt(impl_->tokenizer(), impl_->runner().config(), text);
}
std::string Engine::decode(const std::vector<int32_t>& ids) const { return impl_->tokenizer().decode(ids); }
StepRunner& Engine::runner() { return impl_->runner(); }

}  // namespace fulgur
