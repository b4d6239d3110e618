// The mixture of experts. A tile of tokens is routed, and its (token, expert) pairs, the slots, are sorted by
// expert; the shared expert counts as one more that every token chose with weight 1. Experts then go in waves
// of bounded scratch: the crew gathers a wave's activations, multiplies each expert's gate and up for all its
// tokens, gates, multiplies down. Members own ranges of output columns, so each element of delta is summed by
// one of them, in ascending order of expert. An expert's weights are read once a tile; 6 FLOPs a slot and
// weight of one matrix.

#include "kernels/cpu/entries.h"
#include "kernels/cpu/gated.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/kernel.h"
#include "kernels/cpu/routing.h"

namespace fulgur::cpu::FULGUR_CPU_ISA {
namespace {

// A tile's tokens share one reading of the experts; a wave's rows bound the scratch (rows of x and of the
// gated product).
constexpr int64_t kTileTokens = 512;
constexpr int64_t kWaveRows = 512;
constexpr int64_t kColumnGrain = 16;

/// An expert with tokens in this tile, or the shared one.
struct Unit {
  const FfnWeights* weights;
  int64_t first_slot;
  int64_t end_slot;
  int64_t row;  // of the wave's scratch
  int64_t wave;
};

/// Everything that an op allocates: sized for one tile.
struct Scratch {
  PackedRows router_input;
  Matrix<float> logits;       // [tile, E]
  float* bias;                // [E]
  Matrix<float> router_rows;  // [crew, 2 E + G]
  Matrix<int32_t> chosen;     // [tile, k]; -1 for a token with a NaN
  Matrix<float> weights;      // [tile, k]
  int32_t* slot_token;        // [tile * (k + 1)] within the tile
  float* slot_weight;
  int64_t* first_slot;  // [E + 1]
  Unit* units;          // [E + 1]
  int64_t num_units;
  int64_t wave_rows;
  std::byte* gate_input;  // [wave_rows] packed rows of x
  std::byte* up_input;    // the same for an expert whose up has another form than its gate, or gate_input
  std::byte* gated;       // [wave_rows, width] operands
  std::byte* down_input;  // [wave_rows] packed rows of them
  int64_t width;          // of the widest expert
};

bool one_order(DType x, const FfnWeights& w) { return order_for(x, w.gate.form) == order_for(x, w.up.form); }

Scratch allocate(Context& context, const Moe& op) {
  Arena& arena = *context.arena;
  const auto num_experts = static_cast<int64_t>(op.weights.experts.size());
  const int64_t tile = std::min(op.x.rows, kTileTokens);
  const int64_t slots = tile * (op.shape.experts_per_token + 1);
  bool mixed = op.weights.shared.gate.present() && !one_order(op.x.dtype, op.weights.shared);
  Scratch s{};
  s.width = op.weights.shared.gate.rows;
  for (const FfnWeights& expert : op.weights.experts) {
    s.width = std::max(s.width, expert.gate.rows);
    mixed = mixed || !one_order(op.x.dtype, expert);
  }
  // The router's product is f32 whatever x is: packed as f32 for the form of W_g.
  s.router_input = allocate_packed(arena, tile, op.x.cols, DType::kF32, op.weights.router.form);
  s.logits = arena.matrix<float>(tile, num_experts);
  s.bias = arena.allocate_array<float>(num_experts);
  s.router_rows = arena.matrix<float>(context.team->size(), 2 * num_experts + op.shape.num_groups);
  s.chosen = arena.matrix<int32_t>(tile, op.shape.experts_per_token);
  s.weights = arena.matrix<float>(tile, op.shape.experts_per_token);
  s.slot_token = arena.allocate_array<int32_t>(slots);
  s.slot_weight = arena.allocate_array<float>(slots);
  s.first_slot = arena.allocate_array<int64_t>(num_experts + 1);
  s.units = arena.allocate_array<Unit>(num_experts + 1);
  s.wave_rows = std::max(round_to_grain(tile), std::min(kWaveRows, slots * kTokenGrain));
  s.gate_input = arena.allocate_array<std::byte>(s.wave_rows * widest_row_bytes(op.x.cols));
  s.up_input =
      mixed ? arena.allocate_array<std::byte>(s.wave_rows * widest_row_bytes(op.x.cols)) : s.gate_input;
  s.gated =
      arena.allocate_array<std::byte>(s.wave_rows * s.width * static_cast<int64_t>(size_bytes(op.x.dtype)));
  s.down_input = arena.allocate_array<std::byte>(s.wave_rows * widest_row_bytes(s.width));
  return s;
}

/// One member's work on the tile of tokens [first, first + count).
template <typename X>
class TileWork {
 public:
  TileWork(const Moe& op, Scratch& scratch, const Crew& crew, int64_t first, int64_t count)
      : op_(op),
        s_(scratch),
        crew_(crew),
        first_(first),
        count_(count),
        columns_(crew.share(op.delta.cols, kColumnGrain)) {}

  void run() {
    clear_delta();
    route();
    if (crew_.member == 0) sort_slots();
    crew_.barrier();
    for (int64_t unit = 0; unit < s_.num_units;) {
      int64_t end = unit + 1;
      while (end < s_.num_units && s_.units[end].wave == s_.units[unit].wave) ++end;
      run_wave({unit, end});
      unit = end;
    }
  }

 private:
  void clear_delta() const {
    for (int64_t t = 0; t < count_; ++t) {
      float* row = op_.delta.row(first_ + t);
      std::fill(row + columns_.begin, row + columns_.end, 0.0F);
    }
  }

  void route() const {
    const int64_t num_experts = s_.logits.cols;
    const Share tokens = crew_.share(count_);
    for (int64_t t = tokens.begin; t < tokens.end; ++t)
      pack_row(s_.router_input, t, op_.x.row<const X>(first_ + t));
    if (crew_.member == 0) {
      with_element(op_.weights.correction_bias.form, [&](auto element) {
        const auto* bias = static_cast<const decltype(element)*>(op_.weights.correction_bias.data);
        for (int64_t e = 0; e < num_experts; ++e) s_.bias[e] = cpu::to_float(bias[e]);
      });
    }
    crew_.barrier();
    multiply_part(crew_, s_.router_input, count_, op_.weights.router,
                  {s_.logits.data, DType::kF32, count_, num_experts, num_experts});
    crew_.barrier();
    float* scratch = s_.router_rows.row(crew_.member);
    const Router router{.shape = op_.shape,
                        .num_experts = num_experts,
                        .bias = s_.bias,
                        .scores = scratch,
                        .choice = scratch + num_experts,
                        .group_scores = scratch + 2 * num_experts};
    for (int64_t t = tokens.begin; t < tokens.end; ++t) choose(router, t);
    crew_.barrier();
  }

  void choose(const Router& router, int64_t t) const {
    const int64_t k = op_.shape.experts_per_token;
    int32_t* experts = s_.chosen.row(t);
    float* weights = s_.weights.row(t);
    if (!router.choose(s_.logits.row(t), experts, weights)) {
      std::fill_n(experts, k, -1);
      std::fill_n(weights, k, 0.0F);
      std::atomic_ref(op_.batch.fault[op_.batch.sequence[first_ + t]])
          .fetch_or(kFaultNan, std::memory_order_relaxed);
    }
    if (op_.chosen_experts.data != nullptr) std::copy_n(experts, k, op_.chosen_experts.row(first_ + t));
    if (op_.expert_weights.data != nullptr) std::copy_n(weights, k, op_.expert_weights.row(first_ + t));
  }

  /// Lists the slots by expert, the shared one last, and divides the experts that have any into waves.
  void sort_slots() const {
    const int64_t num_experts = s_.logits.cols;
    const int64_t k = op_.shape.experts_per_token;
    std::fill_n(s_.first_slot, num_experts + 1, 0);
    for (int64_t i = 0; i < count_ * k; ++i) {
      if (s_.chosen.data[i] >= 0) ++s_.first_slot[s_.chosen.data[i] + 1];
    }
    for (int64_t e = 0; e < num_experts; ++e) s_.first_slot[e + 1] += s_.first_slot[e];
    s_.num_units = 0;
    int64_t row = 0;
    int64_t wave = 0;
    const auto add_unit = [&](const FfnWeights& weights, int64_t first_slot, int64_t end_slot) {
      if (first_slot == end_slot) return;
      const int64_t rows = round_to_grain(end_slot - first_slot);
      if (row + rows > s_.wave_rows) {
        ++wave;
        row = 0;
      }
      s_.units[s_.num_units++] = {&weights, first_slot, end_slot, row, wave};
      row += rows;
    };
    for (int64_t e = 0; e < num_experts; ++e) {
      add_unit(op_.weights.experts[static_cast<size_t>(e)], s_.first_slot[e], s_.first_slot[e + 1]);
    }
    int64_t shared_slot = s_.first_slot[num_experts];
    const int64_t first_shared = shared_slot;
    for (int64_t t = 0; t < count_; ++t) {
      for (int64_t j = 0; j < k && s_.chosen.row(t)[j] >= 0; ++j) {
        const int64_t slot =
            s_.first_slot[s_.chosen.row(t)[j]]++;  // from here on first_slot[e] is where e's next goes
        s_.slot_token[slot] = static_cast<int32_t>(t);
        s_.slot_weight[slot] = s_.weights.row(t)[j];
      }
      if (s_.chosen.row(t)[0] < 0 || !op_.weights.shared.gate.present()) continue;
      s_.slot_token[shared_slot] = static_cast<int32_t>(t);
      s_.slot_weight[shared_slot++] = 1.0F;
    }
    add_unit(op_.weights.shared, first_shared, shared_slot);
  }

  [[nodiscard]] GatedInput input_of(const Unit& unit) const {
    const int64_t rows = unit.end_slot - unit.first_slot;
    const int64_t offset = unit.row * widest_row_bytes(op_.x.cols);
    GatedInput input;
    input.gate = packed_at(s_.gate_input + offset, rows, op_.x.cols, op_.x.dtype, unit.weights->gate.form);
    input.up = input.gate;
    if (!one_order(op_.x.dtype, *unit.weights)) {
      input.up = packed_at(s_.up_input + offset, rows, op_.x.cols, op_.x.dtype, unit.weights->up.form);
    }
    return input;
  }
  [[nodiscard]] X* gated_of(const Unit& unit) const {
    return reinterpret_cast<X*>(s_.gated) + unit.row * s_.width;
  }
  [[nodiscard]] PackedRows packed_of(const Unit& unit) const {
    return packed_at(s_.down_input + unit.row * widest_row_bytes(s_.width), unit.end_slot - unit.first_slot,
                     unit.weights->down.cols, op_.x.dtype, unit.weights->down.form);
  }

  /// f(unit, slots) for the member's part of the wave's slots, unit by unit.
  template <typename F>
  void for_each_slots(Share units, F&& f) const {
    const int64_t first = s_.units[units.begin].first_slot;
    const Share mine = crew_.share(s_.units[units.end - 1].end_slot - first);
    for (int64_t u = units.begin; u < units.end; ++u) {
      const Unit& unit = s_.units[u];
      f(unit,
        Share{std::max(unit.first_slot, first + mine.begin), std::min(unit.end_slot, first + mine.end)});
    }
  }

  void run_wave(Share units) const {
    for_each_slots(units, [&](const Unit& unit, Share slots) {
      const GatedInput input = input_of(unit);
      for (int64_t slot = slots.begin; slot < slots.end; ++slot) {
        pack_row(input, slot - unit.first_slot, op_.x.row<const X>(first_ + s_.slot_token[slot]));
      }
    });
    crew_.barrier();
    for (int64_t u = units.begin; u < units.end; ++u) {
      const Unit& unit = s_.units[u];
      const Share outputs = crew_.share(unit.weights->gate.rows, kColumnGrain);
      multiply_gated(input_of(unit), {0, unit.end_slot - unit.first_slot}, *unit.weights, outputs,
                     gated_of(unit) + outputs.begin, s_.width);
    }
    crew_.barrier();
    for_each_slots(units, [&](const Unit& unit, Share slots) {
      const PackedRows packed = packed_of(unit);
      for (int64_t slot = slots.begin; slot < slots.end; ++slot) {
        const int64_t row = slot - unit.first_slot;
        pack_row(packed, row, static_cast<const X*>(gated_of(unit) + row * s_.width));
      }
    });
    crew_.barrier();
    for (int64_t u = units.begin; u < units.end; ++u) add_down(s_.units[u]);
  }

  /// delta += weight * down(gated), in the member's columns.
  void add_down(const Unit& unit) const {
    float tile[kGatedTokens * kGatedOutputs];
    const PackedRows packed = packed_of(unit);
    const int64_t rows = unit.end_slot - unit.first_slot;
    for (int64_t c = columns_.begin; c < columns_.end; c += kGatedOutputs) {
      const Share columns{c, std::min(columns_.end, c + kGatedOutputs)};
      for (int64_t r = 0; r < rows; r += kGatedTokens) {
        const Share share{r, std::min(rows, r + kGatedTokens)};
        multiply(packed, share, unit.weights->down, columns, tile, kGatedOutputs);
        for (int64_t i = share.begin; i < share.end; ++i) {
          const Vec weight = splat(s_.slot_weight[unit.first_slot + i]);
          const float* from = tile + (i - r) * kGatedOutputs;
          float* to = op_.delta.row(first_ + s_.slot_token[unit.first_slot + i]) + c;
          for_each_vector(columns.end - c, [&](int64_t j, auto n) {
            store(to + j, fma(weight, load(from + j, n), load(to + j, n)), n);
          });
        }
      }
    }
  }

  const Moe& op_;
  Scratch& s_;
  const Crew crew_;
  const int64_t first_;
  const int64_t count_;
  const Share columns_;
};

}  // namespace

void moe(Context& context, const Moe& op) {
  const ArenaScope scope(*context.arena);
  Scratch scratch = allocate(context, op);
  const int64_t tokens = op.x.rows;
  const int64_t slots = tokens * (op.shape.experts_per_token + 1);
  const Weight& gate = op.weights.experts.front().gate;
  with_operand(op.x.dtype, [&](auto element) {
    run_region(context, 3 * (slots + 1) * gate.rows * gate.cols, [&](const Crew& crew) {
      for (int64_t t = 0; t < tokens; t += kTileTokens) {
        TileWork<decltype(element)>(op, scratch, crew, t, std::min(kTileTokens, tokens - t)).run();
        crew.barrier();
      }
    });
  });
}

}  // namespace fulgur::cpu::FULGUR_CPU_ISA
