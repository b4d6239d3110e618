#include "ops/embed.h"
#include "reference/embed.h"
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

}  // namespace fulgur::test
