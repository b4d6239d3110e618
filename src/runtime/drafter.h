#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "model/load.h"
#include "model/mtp.h"
#include "ops/paged_cache.h"
#include "runtime/batch_plan.h"
#include "runtime/chunk_run.h"

namespace fulgur {

/// Runs the MTP layer behind the decoder: after a step its caches hold the pair of every token that the main
/// caches hold, and it has guessed what follows the texts. Guesses change no answer (docs/design.md, section
/// 5).
class Drafter {
 public:
  /// `num_drafts` guesses at a time, or none. The model was loaded with its MTP layer.
  Drafter(const LoadedModel& model, int num_drafts)
      : config_(model.config), mtp_(model.config, model.weights), num_drafts_(num_drafts) {}

  /// Before the step: row i of `hidden`, [chunks + tokens, d], becomes F of the token before chunk i; the
  /// main model writes those of the step's tokens behind.
  void place_earlier(const BatchPlan& plan, const Operand& hidden, const Backend& backend);
  /// After its tokens were drawn: fills `drafts` of the runs. What NaN spoils loses its drafts alone, unless
  /// the observer wants to see these logits: then the run has failed.
  void draft(const Step& main, const Operand& hidden, const BatchPlan& plan, std::vector<ChunkRun>& runs);
  void forget(RequestId request) { texts_.erase(request); }

 private:
  /// What a text's next chunk needs of the one before.
  struct Text {
    int64_t next = 0;             // its first position
    int64_t paired = 0;           // pairs are cached up to here
    std::vector<std::byte> last;  // F of position next - 1
  };
  struct Pairs;

  Pairs pairs_of(const Operand& hidden, const BatchPlan& plan, const std::vector<ChunkRun>& runs,
                 const Step& main);
  void show(Step& step, const Operand& out, StepObserver& observer, std::vector<ChunkRun>& runs) const;
  Pairs guess(Step& step, const Operand& out, const Pairs& pairs, const BatchPlan& plan,
              std::vector<ChunkRun>& runs) const;

  const Config& config_;
  Mtp mtp_;
  int num_drafts_;
  std::map<RequestId, Text> texts_;
};

}  // namespace fulgur
