#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <span>
#include <vector>

#include "base/matrix.h"
#include "base/thread_team.h"
#include "model/decoder.h"
#include "model/load.h"
#include "model/rope.h"
#include "ops/context.h"
#include "ops/profile.h"
#include "ops/sample.h"
#include "runtime/batch_plan.h"
#include "runtime/cache_pool.h"
#include "runtime/chunk_run.h"
#include "runtime/drafter.h"
#include "runtime/model_time.h"

namespace fulgur {

/// How a model is run.
struct RunnerOptions {
  int threads = 1;
  Precision precision = Precision::kNative;
  IndexerProjection projection = IndexerProjection::kFused;
  CacheForms cache_forms;
  int64_t index_scratch_bytes = kDefaultIndexScratchBytes;
  size_t scratch_bytes = 0;              // of steps, taken at once (runtime/memory_need.h); 0: as they come
  int64_t host_logits_rows = 0;          // that callbacks see at once, likewise
  int num_pages = 0;                     // of the caches
  bool mtp = false;                      // run the MTP layer along; the model was loaded with it
  int num_drafts = 0;                    // guesses of that layer at a time; more than 0: it runs along
  SelectionSource* selection = nullptr;  // outlives the runner
  StepObserver* observer = nullptr;      // outlives the runner
  bool profile = false;
  const Backend* backend = nullptr;  // null: choose_backend()

  [[nodiscard]] bool runs_mtp() const { return mtp || num_drafts > 0; }
};

/// What a chunk of a plan is run for, besides its cache entries.
struct ChunkOutput {
  static constexpr int64_t kNoLogits = std::numeric_limits<int64_t>::max();

  int64_t logits_from = kNoLogits;  // positions from here on have their logits handed out
  /// Gets them: of consecutive positions, the first `first`; [n, vocab] in host memory, valid during the
  /// call.
  std::function<void(int64_t first, Matrix<const float> logits)> on_logits;
  SamplingParams sampling;  // where it draws
  /// Changes, on the host, the logits that a token is drawn from, after `num_drafts` of the chunk's drafts.
  /// Null: it is drawn from the model's own.
  std::function<void(int num_drafts, std::span<float> logits)> adjust;
  /// Gets, in order, each token that was drawn and follows the text, with the model's own logits, in host
  /// memory, valid during the call. Null: nobody wants them.
  std::function<void(int32_t token, std::span<const float> logits)> on_drawn;
};

/// The one way of running steps: a plan's chunks as one flat batch through the decoder, the head for the rows
/// that are wanted, a token drawn where the plan says so. Knows pages and positions, not requests.
class StepRunner {
 public:
  /// Refers to the model. Throws `device` for an instruction set that isn't there, bad_request for a form of
  /// the caches that model or back end don't have, and for too little index_scratch_bytes.
  StepRunner(const LoadedModel& model, const RunnerOptions& options);

  /// `outputs` and the result are parallel to the plan's chunks. Throws what ops throw, and io_error for a
  /// checkpoint file that changed; the caches then hold nothing of this step, but all that they held before.
  std::vector<ChunkRun> run(const BatchPlan& plan, std::span<const ChunkOutput> outputs);

  [[nodiscard]] const Config& config() const { return model_.config; }
  [[nodiscard]] const Backend& backend() const { return backend_; }
  [[nodiscard]] Profile& profile() { return profile_; }
  /// Throws io_error for a checkpoint file that changed since it was loaded (MappedFile::throw_if_damaged).
  /// run() does so too, but asks the system only now and then: whoever takes a result for whole asks here.
  void check_files();
  /// Of all steps so far.
  [[nodiscard]] const ModelTime& model_time() const { return model_time_; }
  /// Before a request's first step, the first after it was set back too, and when it has ended: nothing of
  /// its text is kept for drafts.
  void forget(RequestId request);
  /// Texts that something is kept of for drafts.
  [[nodiscard]] size_t num_texts() const { return drafter_ ? drafter_->num_texts() : 0; }
  /// For the steps to come.
  void set_projection(IndexerProjection projection) { options_.projection = projection; }
  void set_observer(StepObserver* observer) { options_.observer = observer; }
  void set_selection(SelectionSource* selection) { options_.selection = selection; }

 private:
  using Clock = std::chrono::steady_clock;
  struct Row;  // a row of logits

  TokenBatch upload_batch(const BatchPlan& plan);
  void check_ran(const BatchPlan& plan, const TokenBatch& tokens, std::vector<ChunkRun>& runs);
  static bool verify(const PlannedChunk& chunk, int num_drafts, int32_t drawn, ChunkRun& run);
  void hand_out(Matrix<const float> logits, std::span<const Row> rows, std::span<const ChunkOutput> outputs);
  std::vector<int32_t> draw(Matrix<float> logits, std::span<const Row> rows,
                            std::span<const ChunkOutput> outputs);
  std::vector<int32_t> draw_from(Matrix<float> logits, std::span<const Row> rows,
                                 std::span<const ChunkOutput> outputs);
  std::span<float> on_host(const float* logits);

  const LoadedModel& model_;
  RunnerOptions options_;
  const Backend& backend_;
  ThreadTeam team_;
  Arena arena_;
  Profile profile_;
  ModelTime model_time_;
  Context context_;
  CachePool pool_;
  PlacedRope rope_;
  Decoder decoder_;
  std::optional<Drafter> drafter_;
  std::vector<float> host_logits_;  // that callbacks see; its memory is kept for the next step
  Clock::time_point files_checked_ = Clock::now();  // and found as they were
};

}  // namespace fulgur
