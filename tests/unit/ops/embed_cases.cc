#include "ops/embed.h"
#include "ops/mtp_input.h"
#include "reference/embed.h"
#include "reference/mtp_input.h"
#include "unit/ops/op_table.h"

namespace fulgur::test {
namespace {

class EmbedCase : public OpCase<EmbedCase> {
 public:
  EmbedCase(Machine& machine, Random& random, const Dims& dims, WeightForm form)
      : batch_(machine, random, dims.batch, dims.vocab),
        table_(machine.add_weight(random, form, dims.vocab, dims.hidden)),
        hidden_(machine.add_output(DType::kF32, batch_.num_tokens(), dims.hidden)) {}

  [[nodiscard]] int num_rows() const override { return batch_.num_tokens(); }
  void check() override {
    with_op(Side::kHost, 0, num_rows(),
            [&](const Embed& op) { expect_close(reference::embed(op), hidden_, "hidden"); });
  }

  template <typename F>
  void with_op(Side side, int first, int count, F f) {
    const TokenBatch batch = batch_.rows(side, first, count);
    f(Embed{batch, table_.weight(side), hidden_.matrix<float>(side, first, count)});
  }

 private:
  Batch batch_;
  WeightBuffer& table_;
  Buffer& hidden_;
};

class MtpInputCase : public OpCase<MtpInputCase> {
 public:
  MtpInputCase(Machine& machine, Random& random, const Dims& dims, WeightForm form, DType operand)
      : batch_(machine, random, dims.batch, dims.vocab),
        table_(machine.add_weight(random, form, dims.vocab, dims.hidden)),
        enorm_(machine.add_gain(random, form, dims.hidden)),
        hidden_(machine.add(operand, kRowsOfF, dims.hidden, {.padding = 3}).fill_normal(random, 2)),
        rows_(machine.add(DType::kI32, batch_.num_tokens(), 1).fill([&](int64_t, int64_t) {
          return static_cast<double>(random.integer(0, kRowsOfF - 1));
        })),
        hnorm_(machine.add_gain(random, form, dims.hidden)),
        pair_(machine.add_output(operand, batch_.num_tokens(), 2 * dims.hidden)) {}

  [[nodiscard]] int num_rows() const override { return batch_.num_tokens(); }
  void check() override {
    with_op(Side::kHost, 0, num_rows(),
            [&](const MtpInput& op) { expect_close(reference::mtp_input(op), pair_, "pair"); });
  }

  template <typename F>
  void with_op(Side side, int first, int count, F f) {
    const TokenBatch batch = batch_.rows(side, first, count);
    f(MtpInput{batch, table_.weight(side), enorm_.weight(side), hidden_.operand(side),
               static_cast<const int32_t*>(rows_.data(side, first)), hnorm_.weight(side), 1e-5F,
               pair_.operand(side, first, count)});
  }

 private:
  static constexpr int kRowsOfF = 6;
  Batch batch_;
  WeightBuffer& table_;
  Buffer& enorm_;
  Buffer& hidden_;
  Buffer& rows_;
  Buffer& hnorm_;
  Buffer& pair_;
};

}  // namespace

std::vector<TableRow> embed_rows() {
  std::vector<TableRow> rows;
  for (const Dims& dims : all_dims()) {
    for (const WeightForm form : kPlainForms) {
      rows.push_back({"embed_" + std::string(dims.name) + "_" + short_name(form), 1,
                      [&dims, form](Machine& m, Random& r, int) {
                        return std::make_unique<EmbedCase>(m, r, dims, form);
                      }});
    }
  }
  return rows;
}

std::vector<TableRow> mtp_input_rows() {
  std::vector<TableRow> rows;
  for (const Dims& dims : all_dims()) {
    for (const WeightForm form : kPlainForms) {
      for (const DType operand : kOperandDTypes) {
        rows.push_back(
            {"mtp_input_" + std::string(dims.name) + "_" + short_name(form) + "_to_" + short_name(operand), 1,
             [&dims, form, operand](Machine& m, Random& r, int) {
               return std::make_unique<MtpInputCase>(m, r, dims, form, operand);
             }});
      }
    }
  }
  return rows;
}

}  // namespace fulgur::test
