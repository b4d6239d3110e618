#include "property/run_model.h"

#include <algorithm>

namespace fulgur::property {
namespace {

std::vector<std::vector<int32_t>> rows_of(Matrix<const int32_t> matrix) {
  std::vector<std::vector<int32_t>> rows;
  for (int64_t r = 0; r < matrix.rows; ++r) {
    rows.emplace_back(matrix.row(r), matrix.row(r) + matrix.cols);
    std::erase(rows.back(), -1);
  }
  return rows;
}

class Recorder final : public StepObserver {
 public:
  Recorder(EngineRun& run, size_t num_layers) : run_(run) {
    run_.hidden.resize(num_layers);
    run_.selected.resize(num_layers);
    run_.experts.resize(num_layers);
  }

  [[nodiscard]] bool wants_router() const override { return true; }
  void hidden(int layer, const Residual& residual) override {
    std::vector<float>& to = run_.hidden[static_cast<size_t>(layer)];
    for (int64_t t = 0; t < residual.sum.rows; ++t) {
      for (int64_t i = 0; i < residual.sum.cols; ++i)
        to.push_back(residual.sum.row(t)[i] + residual.delta.row(t)[i]);  // as the next norm folds it in
    }
  }
  void selected(int layer, Matrix<const int32_t> selected) override {
    run_.selected[static_cast<size_t>(layer)] = rows_of(selected);
  }
  void router(int layer, Matrix<const int32_t> experts, Matrix<const float> /*weights*/) override {
    run_.experts[static_cast<size_t>(layer)] = rows_of(experts);
  }

 private:
  EngineRun& run_;
};

}  // namespace

EngineRun run_engine(Session& session, std::span<const int32_t> tokens, bool record_all) {
  EngineRun run;
  Recorder recorder(run, static_cast<size_t>(session.config().num_hidden_layers));
  if (record_all) session.set_observer(&recorder);
  const int sequence = session.open();
  const Work work{.sequence = sequence, .tokens = tokens, .logits = Wanted::kAll};
  session.run(std::span(&work, 1), [&](int, int64_t, Matrix<const float> rows) {
    run.logits.insert(run.logits.end(), rows.data, rows.data + rows.rows * rows.cols);
  });
  session.close(sequence);
  session.set_observer(nullptr);
  return run;
}

}  // namespace fulgur::property
