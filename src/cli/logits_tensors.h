#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "cli/model_options.h"
#include "model/step.h"
#include "ops/backend.h"

namespace fulgur::cli {

struct LogitsOptions {
  ModelOptions model;
  std::string tokens;
  std::string out;
  bool last = false;
  bool topk = false;
  std::vector<std::string> dump;
  std::string inject_topk;
  int64_t greedy = 0;
  int64_t chunk = 512;

  [[nodiscard]] bool dumps(std::string_view what) const {
    return std::ranges::find(dump, what) != dump.end();
  }
};

/// A tensor of `fulgur logits`, whose shape is known before the prompt runs, filled row after row.
struct OutputTensor {
  std::string name;
  DType dtype{};
  std::vector<int64_t> shape;
  std::vector<std::byte> bytes;
  size_t filled = 0;

  [[nodiscard]] uint64_t size() const;
  /// Throws std::logic_error for more than the shape holds.
  void append(const void* values, size_t count_bytes);
};

/// What is written of one prompt, without bytes yet. `topk_cols`: most positions of a selection.
std::vector<OutputTensor> output_tensors(const LogitsOptions& options, const Config& config, size_t prompt,
                                         int64_t num_tokens, int64_t topk_cols);

/// Collects what one prompt's steps compute; of the MTP layer, behind the others, what it leaves in the
/// residual stream.
class Recorder : public StepObserver {
 public:
  Recorder(const LogitsOptions& options, const Config& config, const Backend& backend, size_t prompt,
           int64_t num_tokens, int64_t topk_cols);

  [[nodiscard]] bool wants_scores() const override { return options_.dumps("scores"); }
  [[nodiscard]] bool wants_router() const override { return options_.dumps("router"); }
  [[nodiscard]] bool wants_mtp_logits() const override { return options_.model.mtp; }

  /// Of the prompt's next positions.
  void logits(int64_t rows, const float* logits);
  void drawn_from(Matrix<const float> logits) override;
  void mtp_logits(Matrix<const float> logits) override;
  void hidden(int layer, const Residual& residual) override;
  void scores(int layer, Matrix<const float> scores) override;
  void selected(int layer, Matrix<const int32_t> selected) override;
  void router(int layer, Matrix<const int32_t> experts, Matrix<const float> weights) override;

  /// Of the tokens behind the prompt.
  void greedy(const std::vector<int32_t>& ids);
  /// As output_tensors() has them. Throws std::logic_error where one isn't full.
  std::vector<OutputTensor> take();

 private:
  /// The tensor `what.PROMPT`, or `what.PROMPT.LAYER`; null where it isn't wanted.
  OutputTensor* find(std::string_view what, int layer = -1);
  /// Rows of back-end memory, each followed by `fill` up to the tensor's columns.
  template <typename T>
  void append(OutputTensor* tensor, Matrix<const T> rows, T fill = {});

  const LogitsOptions& options_;
  const Backend& backend_;
  const size_t prompt_;
  const int mtp_layer_;
  const int64_t num_tokens_;
  std::vector<OutputTensor> tensors_;
};

}  // namespace fulgur::cli
