#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "base/matrix.h"
#include "base/thread_team.h"
#include "model/decoder.h"
#include "model/load.h"
#include "model/mtp.h"
#include "model/rope.h"
#include "ops/context.h"
#include "ops/profile.h"
#include "ops/sample.h"
#include "runtime/cache_pool.h"

namespace fulgur {

struct SessionOptions {
  int threads = 1;
  Precision precision = Precision::kNative;
  IndexerProjection projection = IndexerProjection::kFused;
  int64_t cache_tokens = 0;   // positions that all open sequences together may hold, each rounded up to pages
  int64_t step_tokens = 512;  // most tokens of one step
  bool mtp = false;           // run the MTP layer along; the model was loaded with it
  SelectionSource* selection = nullptr;  // outlives the session
  StepObserver* observer = nullptr;      // outlives the session
  bool profile = false;
};

/// Which of the tokens that are appended get logits.
enum class Wanted { kNone, kLast, kAll };

/// Tokens to append to one sequence.
struct Work {
  int sequence = 0;
  std::span<const int32_t> tokens;  // at least one; ids below vocab_size
  Wanted logits = Wanted::kNone;
  const SamplingParams* sampling = nullptr;  // draws the token after the last one
};

/// Logits of consecutive tokens of work `work`, the first at position `first`: [n, vocab] in host memory,
/// valid during the call.
using LogitsSink = std::function<void(int work, int64_t first, Matrix<const float> logits)>;

/// A model with caches, running flat steps over several sequences.
class Session {
 public:
  /// Refers to the model. Throws `device` for an instruction set that isn't there.
  Session(const LoadedModel& model, const SessionOptions& options);

  /// A new, empty sequence; returns its handle.
  int open();
  /// Gives the sequence's pages back.
  void close(int sequence);
  [[nodiscard]] int64_t length(int sequence) const;

  /// Appends each work's tokens to its sequence (each named once), in steps of at most step_tokens. Returns,
  /// for each work with `sampling`, the token that was drawn, else -1. Throws bad_request where the caches or
  /// max_position_embeddings don't have the room, before anything is run, and bad_value where a score is
  /// NaN, or a logit that a token is drawn from.
  /// `mtp_sink` gets the MTP layer's logits of every pair (F_i, token i+1) of the works, `first` the first i.
  std::vector<int32_t> run(std::span<const Work> works, const LogitsSink& sink = nullptr,
                           const LogitsSink& mtp_sink = nullptr);

  [[nodiscard]] const Config& config() const { return model_.config; }
  [[nodiscard]] const Backend& backend() const { return backend_; }
  [[nodiscard]] const Profile& profile() const { return profile_; }
  void reset_profile() { profile_.reset(); }
  /// Changes the projection mode for the steps to come.
  void set_projection(IndexerProjection projection) { options_.projection = projection; }
  /// The same for who looks on and who selects; null: nobody, the indexer.
  void set_observer(StepObserver* observer) { options_.observer = observer; }
  void set_selection(SelectionSource* selection) { options_.selection = selection; }

 private:
  struct Sequence {
    int64_t length = 0;
    std::vector<int32_t> pages;
    std::vector<std::byte> last_hidden;  // F of its last token, where there is an MTP layer
  };
  struct Row;        // a row of logits
  struct Batch;      // a step's host arrays
  struct RunResult;  // where a run's logits and tokens go

  void check_room(std::span<const Work> works) const;
  void run_step(const Batch& batch, RunResult& result);
  void run_mtp(const Step& main, const Operand& hidden, const Batch& batch, const RunResult& result);
  void check_ran(const TokenBatch& tokens) const;
  [[nodiscard]] std::vector<int32_t> pages_of(const Batch& batch) const;
  /// f(logits, rows) for some of the wanted rows at a time.
  template <typename Head, typename F>
  void for_logits(std::span<const Row> wanted, Head head, F f);
  void send(Matrix<const float> logits, std::span<const Row> wanted, const LogitsSink& sink);
  void draw(Matrix<const float> logits, std::span<const Row> wanted, RunResult& result);

  const LoadedModel& model_;
  SessionOptions options_;
  const Backend& backend_;
  ThreadTeam team_;
  Arena arena_;
  Profile profile_;
  Context context_;
  CachePool pool_;
  PlacedRope rope_;
  Decoder decoder_;
  std::optional<Mtp> mtp_;
  std::map<int, Sequence> sequences_;
  int next_handle_ = 0;
};

}  // namespace fulgur
