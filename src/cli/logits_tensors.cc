#include "cli/logits_tensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <utility>

namespace fulgur::cli {

uint64_t OutputTensor::size() const {
  uint64_t size = size_bytes(dtype);
  for (const int64_t dim : shape) size *= static_cast<uint64_t>(dim);
  return size;
}

void OutputTensor::append(const void* values, size_t count_bytes) {
  if (filled + count_bytes > bytes.size()) throw std::logic_error("logits: more rows than " + name + " has");
  if (count_bytes > 0) std::memcpy(bytes.data() + filled, values, count_bytes);
  filled += count_bytes;
}

std::vector<OutputTensor> output_tensors(const LogitsOptions& options, const Config& config, size_t prompt,
                                         int64_t num_tokens, int64_t topk_cols) {
  std::vector<OutputTensor> tensors;
  const auto add = [&](const std::string& what, DType dtype, int64_t rows, int64_t cols) {
    tensors.push_back({.name = what, .dtype = dtype, .shape = {rows, cols}, .bytes = {}});
  };
  const auto name = [&](const char* what) { return fmt::format("{}.{}", what, prompt); };
  const auto of_layer = [&](const char* what, size_t layer) {
    return fmt::format("{}.{}.{}", what, prompt, layer);
  };
  add(name("logits"), DType::kF32, options.last ? 1 : num_tokens, config.vocab_size);
  const bool all = options.model.selection == "all";
  for (size_t layer = 0; layer < static_cast<size_t>(config.num_hidden_layers); ++layer) {
    if (options.dumps("hidden")) add(of_layer("hidden", layer), DType::kF32, num_tokens, config.hidden_size);
    if (config.sparse() && config.full_indexer[layer]) {
      if (options.dumps("scores")) add(of_layer("scores", layer), DType::kF32, num_tokens, num_tokens);
      const int64_t cols = all ? num_tokens : std::min(topk_cols, num_tokens);
      if (options.topk) add(of_layer("topk", layer), DType::kI32, num_tokens, cols);
    }
    if (options.dumps("router") && config.moe_layer[layer]) {
      add(of_layer("router_experts", layer), DType::kI32, num_tokens, config.num_experts_per_tok);
      add(of_layer("router_weights", layer), DType::kF32, num_tokens, config.num_experts_per_tok);
    }
  }
  if (options.model.mtp) {
    if (options.dumps("hidden")) add(name("mtp_hidden"), DType::kF32, num_tokens - 1, config.hidden_size);
    add(name("mtp_logits"), DType::kF32, num_tokens - 1, config.vocab_size);
  }
  if (options.greedy > 0) {
    tensors.push_back({.name = name("greedy"), .dtype = DType::kI64, .shape = {options.greedy}, .bytes = {}});
  }
  return tensors;
}

Recorder::Recorder(const LogitsOptions& options, const Config& config, const Backend& backend, size_t prompt,
                   int64_t num_tokens, int64_t topk_cols)
    : options_(options),
      backend_(backend),
      prompt_(prompt),
      mtp_layer_(static_cast<int>(config.num_hidden_layers)),
      num_tokens_(num_tokens),
      tensors_(output_tensors(options, config, prompt, num_tokens, topk_cols)) {
  for (OutputTensor& tensor : tensors_) tensor.bytes.resize(tensor.size());
}

OutputTensor* Recorder::find(std::string_view what, int layer) {
  const std::string name =
      layer < 0 ? fmt::format("{}.{}", what, prompt_) : fmt::format("{}.{}.{}", what, prompt_, layer);
  const auto found = std::ranges::find(tensors_, name, &OutputTensor::name);
  return found == tensors_.end() ? nullptr : &*found;
}

template <typename T>
void Recorder::append(OutputTensor* tensor, Matrix<const T> rows, T fill) {
  if (tensor == nullptr) return;
  std::vector<T> row(static_cast<size_t>(tensor->shape.back()), fill);
  const size_t given = std::min(row.size(), static_cast<size_t>(rows.cols)) * sizeof(T);
  for (int64_t r = 0; r < rows.rows; ++r) {
    backend_.download(row.data(), rows.row(r), given);
    tensor->append(row.data(), row.size() * sizeof(T));
  }
}

void Recorder::logits(int64_t rows, const float* logits) {
  OutputTensor& tensor = *find("logits");
  tensor.append(logits, static_cast<size_t>(rows * tensor.shape.back()) * sizeof(float));
}

void Recorder::drawn_from(Matrix<const float> logits) {
  if (options_.last) append(find("logits"), logits);
}

void Recorder::mtp_logits(Matrix<const float> logits) { append(find("mtp_logits"), logits); }

void Recorder::hidden(int layer, const Residual& residual) {
  OutputTensor* const tensor = layer == mtp_layer_ ? find("mtp_hidden") : find("hidden", layer);
  if (tensor == nullptr) return;
  const auto cols = static_cast<size_t>(residual.sum.cols);
  std::vector<float> sum(cols);
  std::vector<float> delta(cols);
  for (int64_t r = 0; r < residual.sum.rows; ++r) {
    backend_.download(sum.data(), residual.sum.row(r), cols * sizeof(float));
    backend_.download(delta.data(), residual.delta.row(r), cols * sizeof(float));
    std::ranges::transform(sum, delta, sum.begin(), std::plus());
    tensor->append(sum.data(), cols * sizeof(float));
  }
}

void Recorder::scores(int layer, Matrix<const float> scores) { append(find("scores", layer), scores); }

void Recorder::selected(int layer, Matrix<const int32_t> selected) {
  OutputTensor* const tensor = find("topk", layer);
  if (tensor == nullptr) return;
  if (options_.model.selection != "all") {
    append(tensor, selected, -1);
    return;
  }
  std::vector<int32_t> row(static_cast<size_t>(num_tokens_));
  for (int64_t i = 0; i < selected.rows; ++i) {
    const auto position = static_cast<int64_t>(tensor->filled / (row.size() * sizeof(int32_t)));
    for (int64_t s = 0; s < num_tokens_; ++s)
      row[static_cast<size_t>(s)] = s <= position ? static_cast<int32_t>(s) : -1;
    tensor->append(row.data(), row.size() * sizeof(int32_t));
  }
}

void Recorder::router(int layer, Matrix<const int32_t> experts, Matrix<const float> weights) {
  append(find("router_experts", layer), experts);
  append(find("router_weights", layer), weights);
}

void Recorder::greedy(const std::vector<int32_t>& ids) {
  OutputTensor* const tensor = find("greedy");
  if (tensor == nullptr) return;
  const std::vector<int64_t> wide(ids.begin(), ids.end());
  tensor->append(wide.data(), wide.size() * sizeof(int64_t));
}

std::vector<OutputTensor> Recorder::take() {
  for (const OutputTensor& tensor : tensors_) {
    if (tensor.filled != tensor.bytes.size())
      throw std::logic_error("logits: rows of " + tensor.name + " are missing");
  }
  return std::move(tensors_);
}

}  // namespace fulgur::cli
