#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "ops/mla_attention.h"
#include "reference/dense_mla.h"
#include "reference/sparse_mla.h"
#include "unit/ops/mla_weights.h"
#include "unit/ops/op_table.h"

namespace fulgur::test {
namespace {

/// Makes z spread with a standard deviation of 2: a softmax that is neither flat nor a single spike.
float spreading_scale(const Dims& dims) {
  return static_cast<float>(2 / std::sqrt(static_cast<double>(dims.kv_lora + dims.rope)));
}

class SparseMlaCase : public OpCase<SparseMlaCase> {
 public:
  SparseMlaCase(Machine& machine, Random& random, const Dims& dims, int topk, DType operand, DType latents)
      : shape_(mla_shape(dims)),
        scale_(spreading_scale(dims)),
        batch_(machine, random, dims.batch),
        q_(machine
               .add(operand, batch_.num_tokens(), int64_t{dims.heads} * (dims.kv_lora + dims.rope),
                    {.padding = 4})
               .fill_normal(random, 1)
               .comes_late()),
        pool_(machine, batch_, latents, dims.kv_lora, dims.rope),
        selected_(machine.add(DType::kI32, batch_.num_tokens(), topk, {.padding = 2}).comes_late()),
        u_(machine.add_output(operand, batch_.num_tokens(), int64_t{dims.heads} * dims.kv_lora)) {
    std::set<int64_t> read;  // all others stay NaN
    for (int t = 0; t < batch_.num_tokens(); ++t) {
      std::vector<int32_t> candidates(static_cast<size_t>(batch_.position(t)) + 1);
      std::iota(candidates.begin(), candidates.end(), 0);
      std::vector<int32_t> chosen;
      std::ranges::sample(candidates, std::back_inserter(chosen), topk, random.engine());  // keeps the order
      for (int i = 0; i < topk; ++i) {
        const bool is_chosen = static_cast<size_t>(i) < chosen.size();
        selected_.set(t, i, is_chosen ? chosen[static_cast<size_t>(i)] : -1);
        if (is_chosen) read.insert(batch_.pool_token(batch_.sequence(t), chosen[static_cast<size_t>(i)]));
      }
    }
    for (const int64_t token : read) pool_.fill_normal(random, token);
  }

  [[nodiscard]] int num_rows() const override { return batch_.num_tokens(); }
  void check() override {
    with_op(Side::kHost, 0, num_rows(),
            [&](const SparseMla& op) { expect_close(reference::sparse_mla(op), u_, "u"); });
  }

  template <typename F>
  void with_op(Side side, int first, int count, F f) {
    const TokenBatch batch = batch_.rows(side, first, count);
    f(SparseMla{q_.operand(side, first, count), pool_.latents(side), batch,
                selected_.matrix<const int32_t>(side, first, count), shape_, scale_,
                u_.operand(side, first, count)});
  }

 private:
  MlaShape shape_;
  float scale_;
  Batch batch_;
  Buffer& q_;
  LatentPool pool_;
  Buffer& selected_;
  Buffer& u_;
};

class DenseMlaCase : public OpCase<DenseMlaCase> {
 public:
  DenseMlaCase(Machine& machine, Random& random, const Dims& dims, DType operand, DType latents,
               int first_position)
      : shape_(mla_shape(dims)),
        scale_(spreading_scale(dims)),
        batch_(machine, random, beginning_at(first_position, dims.batch), 1, first_position),
        q_(machine
               .add(operand, batch_.num_tokens(), int64_t{dims.heads} * (dims.kv_lora + dims.rope),
                    {.padding = 4})
               .fill_normal(random, 1)
               .comes_late()),
        pool_(machine, batch_, latents, dims.kv_lora, dims.rope),
        u_(machine.add_output(operand, batch_.num_tokens(), int64_t{dims.heads} * dims.kv_lora)) {
    for (int s = 0; s < batch_.num_sequences(); ++s) {
      for (int position = first_position; position < batch_.length(s); ++position) {
        pool_.fill_normal(random, batch_.pool_token(s, position));
      }
    }
  }

  [[nodiscard]] int num_rows() const override { return batch_.num_tokens(); }
  void check() override {
    with_op(Side::kHost, 0, num_rows(),
            [&](const DenseMla& op) { expect_close(reference::dense_mla(op), u_, "u"); });
  }

  template <typename F>
  void with_op(Side side, int first, int count, F f) {
    const TokenBatch batch = batch_.rows(side, first, count);
    f(DenseMla{q_.operand(side, first, count), pool_.latents(side), batch, shape_, scale_,
               u_.operand(side, first, count)});
  }

 private:
  MlaShape shape_;
  float scale_;
  Batch batch_;
  Buffer& q_;
  LatentPool pool_;
  Buffer& u_;
};

}  // namespace

std::vector<TableRow> mla_attention_rows() {
  std::vector<TableRow> rows;
  for (const Dims& dims : all_dims()) {
    for (const DType operand : kOperandDTypes) {
      const std::string shapes = std::string(dims.name) + "_" + short_name(operand);
      for (const int topk : {1, 17, 64, 100}) {
        rows.push_back({"sparse_mla_" + shapes + "_top" + std::to_string(topk), 1,
                        [&dims, operand, topk](Machine& m, Random& r, int) {
                          return std::make_unique<SparseMlaCase>(m, r, dims, topk, operand, operand);
                        }});
      }
      for (const int first : {0, 1}) {
        rows.push_back({.name = "dense_mla_" + shapes + (first > 0 ? "_from_1" : ""),
                        .make =
                            [&dims, operand, first](Machine& m, Random& r, int) {
                              return std::make_unique<DenseMlaCase>(m, r, dims, operand, operand, first);
                            },
                        .later_start = first > 0});
      }
      for (const DType latents : kCacheDTypes) {
        if (latents == operand) continue;
        const std::string of_latents = shapes + "_over_" + short_name(latents);
        rows.push_back({.name = "sparse_mla_" + of_latents,
                        .make =
                            [&dims, operand, latents](Machine& m, Random& r, int) {
                              return std::make_unique<SparseMlaCase>(m, r, dims, 17, operand, latents);
                            },
                        .mixed_caches = true});
        rows.push_back({.name = "dense_mla_" + of_latents,
                        .make =
                            [&dims, operand, latents](Machine& m, Random& r, int) {
                              return std::make_unique<DenseMlaCase>(m, r, dims, operand, latents, 1);
                            },
                        .mixed_caches = true,
                        .later_start = true});
      }
    }
  }
  return rows;
}

}  // namespace fulgur::test
