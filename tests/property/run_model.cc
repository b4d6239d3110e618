#include "property/run_model.h"

#include <algorithm>

#include "model/step.h"
#include "runtime/step_runner.h"

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

EngineRun run_engine(Engine& engine, const std::vector<int32_t>& tokens) {
  EngineRun run;
  StepRunner& runner = engine.runner();
  Recorder recorder(run, static_cast<size_t>(runner.config().num_hidden_layers));
  runner.set_observer(&recorder);
  run.logits = run_logits(engine, tokens);
  runner.set_observer(nullptr);
  return run;
}

std::vector<float> run_logits(Engine& engine, const std::vector<int32_t>& tokens) {
  std::vector<float> logits;
  const int64_t vocab = engine.runner().config().vocab_size;
  engine
      .submit({.prompt = tokens,
               .max_tokens = 0,
               .on_prompt_logits =
                   [&](int64_t, int64_t rows, const float* values) {
                     logits.insert(logits.end(), values, values + rows * vocab);
                   }})
      .wait();
  return logits;
}

}  // namespace fulgur::property
