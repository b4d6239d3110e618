// One token from each row of logits. Greedy is one pass over the row; drawing takes the exponentials too, and
// the part that chooses among them (draw.h) is plain code.

#include "kernels/cpu/draw.h"
#include "kernels/cpu/entries.h"
#include "kernels/cpu/kernel.h"
#include "kernels/cpu/rows.h"

namespace fulgur::cpu::FULGUR_CPU_ISA {
namespace {

/// The largest logit of a row without NaN; NaN for a row with one.
float largest_logit(const float* logits, int64_t vocab) {
  constexpr float kNone = -std::numeric_limits<float>::infinity();
  Vec largest = splat(kNone);
  uint32_t nan = 0;
  int64_t i = 0;
  for (; i + kLanes <= vocab; i += kLanes) {
    const Vec x = load(logits + i);
    nan |= bits(is_nan(x));
    largest = max(largest, x);
  }
  float best = max_lane(largest);
  for (; i < vocab; ++i) {
    if (std::isnan(logits[i])) nan = 1;
    best = std::max(best, logits[i]);
  }
  return nan != 0 ? std::numeric_limits<float>::quiet_NaN() : best;
}

/// Where a row first has this value, which it has.
int32_t first_of(const float* logits, int64_t vocab, float value) {
  const Vec wanted = splat(value);
  int64_t i = 0;
  for (; i + kLanes <= vocab; i += kLanes) {
    const uint32_t equal = bits(load(logits + i) == wanted);
    if (equal != 0) return static_cast<int32_t>(i + std::countr_zero(equal));
  }
  return static_cast<int32_t>(std::find(logits + i, logits + vocab, value) - logits);
}

int32_t sample_row(const float* logits, int64_t vocab, const SamplingParams& params, int32_t position,
                   std::span<float> weights, std::span<int32_t> order) {
  const float best = largest_logit(logits, vocab);
  if (!std::isfinite(best)) return -1;
  if (params.temperature <= 0) return first_of(logits, vocab, best);
  const Vec shift = splat(best);
  const Vec temperature = splat(params.temperature);
  for_each_vector(vocab, [&](int64_t i, auto n) {
    store(weights.data() + i, exp((load(logits + i, n) - shift) / temperature), n);
  });
  return draw(weights, params, position, order);
}

}  // namespace

void sample(Context& context, const Sample& op) {
  const ArenaScope scope(*context.arena);
  const int64_t vocab = op.logits.cols;
  const int64_t members = std::min<int64_t>(context.team->size(), op.logits.rows);  // that get a row
  const Matrix<float> weights = context.arena->matrix<float>(members, vocab);
  const Matrix<int32_t> orders = context.arena->matrix<int32_t>(members, vocab);
  run_region(context, op.logits.rows * vocab * 4, [&](const Crew& crew) {
    for (int64_t i = crew.member; i < op.logits.rows; i += crew.size) {
      const std::span row_weights(weights.row(crew.member), static_cast<size_t>(vocab));
      const std::span row_order(orders.row(crew.member), static_cast<size_t>(vocab));
      op.token[i] = sample_row(op.logits.row(i), vocab, op.params[i], op.position[i], row_weights, row_order);
    }
  });
}

}  // namespace fulgur::cpu::FULGUR_CPU_ISA
