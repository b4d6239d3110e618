#include "property/run_model.h"

#include <algorithm>

namespace fulgur::property {
namespace {

Choices rows_of(Matrix<const int32_t> matrix) {
  Choices rows;
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

EngineRun run_engine(Session& session, std::span<const int32_t> tokens) {
  EngineRun run;
  Recorder recorder(run, static_cast<size_t>(session.config().num_hidden_layers));
  session.set_observer(&recorder);
  run.logits = run_in_chunks(session, tokens, tokens.size());
  session.set_observer(nullptr);
  return run;
}

std::vector<float> run_in_chunks(Session& session, std::span<const int32_t> tokens, size_t chunk) {
  std::vector<float> logits;
  const int sequence = session.open();
  for (size_t begin = 0; begin < tokens.size(); begin += chunk) {
    const Work work{.sequence = sequence,
                    .tokens = tokens.subspan(begin, std::min(chunk, tokens.size() - begin)),
                    .logits = Wanted::kAll};
    session.run(std::span(&work, 1), [&](int, int64_t, Matrix<const float> rows) {
      logits.insert(logits.end(), rows.data, rows.data + rows.rows * rows.cols);
    });
  }
  session.close(sequence);
  return logits;
}

}  // namespace fulgur::property
