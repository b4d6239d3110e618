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

/// Guesses with the MTP layer what follows the texts of a step, and keeps that layer's caches: after a step
/// they hold the pair of every token that the main caches hold. Guesses change no answer (docs/design.md,
/// section 5).
class Drafter {
 public:
  /// `num_drafts` guesses at a time. The model was loaded with its MTP layer.
  Drafter(const LoadedModel& model, int num_drafts)
      : config_(model.config), mtp_(model.config, model.weights), num_drafts_(num_drafts) {}

  /// Before the step: row i of `hidden`, [chunks + tokens, d], becomes F of the token before chunk i; the
  /// main model writes those of the step's tokens behind.
  void place_earlier(const BatchPlan& plan, const Operand& hidden, const Backend& backend);
  /// After its tokens were drawn: fills `drafts` of the runs. What NaN spoils loses its drafts alone.
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
  Pairs guess(const Step& main, const Operand& hidden, const Pairs& pairs, const BatchPlan& plan,
              std::vector<ChunkRun>& runs, Operand& out);

  const Config& config_;
  Mtp mtp_;
  int num_drafts_;
  std::map<RequestId, Text> texts_;
};

}  // namespace fulgur
