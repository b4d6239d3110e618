#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "model/load.h"
#include "model/mtp.h"
#include "ops/paged_cache.h"
#include "runtime/batch_plan.h"
#include "runtime/chunk_run.h"
#include "runtime/model_time.h"

namespace fulgur {

/// Runs the MTP layer behind the decoder: after a step its caches hold the pair of every token that the main
/// caches hold, and it has guessed what follows the texts. Guesses change no answer (docs/design.md, section
/// 5).
class Drafter {
 public:
  /// `num_drafts` guesses at a time, or none. The model was loaded with its MTP layer.
  Drafter(const LoadedModel& model, DType operand_dtype, int num_pages, int num_drafts, ModelTime& time);

  /// Before the step: row i of `hidden`, [chunks + tokens, d], becomes F of the token before chunk i; the
  /// main model writes those of the step's tokens behind.
  void place_earlier(const BatchPlan& plan, const Operand& hidden, const Backend& backend);
  /// After its tokens were drawn: fills `drafts` of the runs. What NaN spoils loses its drafts alone, unless
  /// the observer wants to see these logits: then the run has failed.
  void draft(const Step& main, const Operand& hidden, const BatchPlan& plan, std::vector<ChunkRun>& runs);
  /// It begins anew, behind cached pages or none, or has ended.
  void forget(RequestId request) { texts_.erase(request); }
  /// That have begun and were not forgotten.
  [[nodiscard]] size_t num_texts() const { return texts_.size(); }

 private:
  /// What a text's next chunk needs of the one before.
  struct Text {
    int64_t paired = 0;           // pairs are cached up to here
    std::vector<std::byte> last;  // F of the position before; empty until its first chunk has run
  };
  /// Where a chunk ended.
  struct End {
    size_t chunk = 0;
    size_t row = 0;       // of F of its first token
    size_t computed = 0;  // its tokens that are in the caches now
    int64_t paired = 0;
  };
  struct Pairs;

  Pairs pairs_of(const BatchPlan& plan, const std::vector<ChunkRun>& runs, const Step& main) const;
  void show(Step& step, const Operand& out, StepObserver& observer, std::vector<ChunkRun>& runs) const;
  Pairs guess(Step& step, const Operand& out, const Pairs& pairs, const BatchPlan& plan,
              std::vector<ChunkRun>& runs) const;
  void keep(const std::vector<End>& ends, const BatchPlan& plan, const Operand& hidden,
            const Backend& backend);
  [[nodiscard]] size_t page_end(const PlannedChunk& chunk, int64_t position) const;

  const Config& config_;
  Mtp mtp_;
  int num_drafts_;
  ModelTime& time_;
  const size_t row_bytes_;  // of F
  std::map<RequestId, Text> texts_;
  std::vector<Text*> text_of_chunk_;  // of the step that runs
  std::vector<std::byte> kept_;       // F of the last position of each of its chunks
  std::vector<std::byte> page_ends_;  // F of the last token of each page, for who finds it in the cache
};

}  // namespace fulgur
