#pragma once

#include <functional>
#include <memory>
#include <ostream>
#include <string>
#include <tuple>
#include <vector>

#include "unit/ops/batch.h"
#include "unit/ops/machine.h"

namespace fulgur::test {

/// One op with its inputs in a machine's buffers.
class Case {
 public:
  virtual ~Case() = default;
  /// Rows of the op that can be run apart.
  [[nodiscard]] virtual int num_rows() const = 0;
  /// The back end's op over rows [first, first + count).
  virtual void run(Context& context, int first, int count) = 0;
  /// The least Context::index_scratch_bytes for it; 0: it needs none.
  [[nodiscard]] virtual int64_t least_index_scratch(const Backend& /*backend*/) const { return 0; }
  /// After all rows were run and the buffers downloaded: EXPECTs what the oracle says.
  virtual void check() = 0;
};

template <typename Op>
void run_op(Context& context, const Op& op) {
  run(context, op);
}

/// A case of one op struct. Derived::with_op(side, first, count, f) calls f(op) with the op over those rows;
/// op structs hold references, so they live only that long.
template <typename Derived>
class OpCase : public Case {
 public:
  void run(Context& context, int first, int count) override {
    self().with_op(Side::kBackend, first, count, [&](const auto& op) { run_op(context, op); });
  }

 private:
  Derived& self() { return static_cast<Derived&>(*this); }
};

/// A line of the table: an op with shapes and dtypes. May stand for several cases of one kind (tails).
struct TableRow {
  std::string name;
  int num_cases = 1;
  std::function<std::unique_ptr<Case>(Machine&, Random&, int index)> make;
  bool fp8_keys = false;      // for back ends that have them
  bool mixed_caches = false;  // likewise
  bool later_start = false;   // for back ends whose attention may begin behind position 0
  /// Of products that a GPU's library may make: there, bits may depend on how many rows there are.
  bool by_library = false;
  bool tuned = false;  // of shapes for which GPUs alone have kernels of their own
};

inline void PrintTo(const TableRow& row, std::ostream* out) { *out << row.name; }

// The rows of each op, next to its case.
std::vector<TableRow> embed_rows();
std::vector<TableRow> mtp_input_rows();
std::vector<TableRow> norm_rows();
std::vector<TableRow> linear_rows();
std::vector<TableRow> mla_prepare_rows();
std::vector<TableRow> mla_output_rows();
std::vector<TableRow> attention_prepare_rows();
std::vector<TableRow> indexer_prepare_rows();
std::vector<TableRow> indexer_select_rows();
/// A context so long that a GPU scores its row and selects in two kernels; for an oracle it is too long.
TableRow long_selection_row();
/// In one kernel and in two, without a row longer than what is selected: none is scored.
std::vector<TableRow> selection_rows_that_leave_early();
std::vector<TableRow> mla_attention_rows();
std::vector<TableRow> ffn_rows();
std::vector<TableRow> moe_rows();
std::vector<TableRow> sample_rows();

/// The shapes of one model.
struct Dims {
  const char* name;
  int hidden;
  int vocab;
  int heads;
  int q_lora;  // 0: null
  int kv_lora;
  int nope;
  int rope;
  int value;
  bool rope_interleave;
  int index_heads;  // 0: no indexer
  int index_dim;
  int topk;
  bool index_interleave;
  int experts;
  int experts_per_token;
  int groups;
  int groups_kept;
  int expert_width;
  int shared_width;
  int dense_width;
  std::vector<Part> batch;  // long enough to select, several sequences, page boundaries
};
/// The three models of the goldens, mini-v32, a slice of V3.2's own widths and one where nothing is even.
const std::vector<Dims>& all_dims();

/// A back end that this executable tests: cpu_backends.cc or cuda_backends.cc says which there are.
struct Tested {
  const Backend* backend;
};
/// "avx2", "cuda"
std::string short_name(const Tested& tested);
[[nodiscard]] inline bool is_gpu(const Backend& backend) { return backend.name.starts_with("cuda"); }
inline void PrintTo(const Tested& tested, std::ostream* out) { *out << short_name(tested); }
/// The back ends that this machine can run; none where it has no such device.
std::vector<Tested> tested_backends();

/// Every line that a tested back end has kernels for.
std::vector<std::tuple<Tested, TableRow>> all_lines();

/// bf16 is `--precision native`, f32 is `full`.
inline constexpr DType kOperandDTypes[] = {DType::kBf16, DType::kF32};
/// What caches may hold.
inline constexpr DType kCacheDTypes[] = {DType::kBf16, DType::kF32, DType::kF8E4M3};
inline constexpr WeightForm kPlainForms[] = {WeightForm::kBf16, WeightForm::kF16, WeightForm::kF32};
/// What a matrix of a product may be; norms and biases beside a quantized one are bf16.
inline constexpr WeightForm kWeightForms[] = {WeightForm::kBf16, WeightForm::kF16, WeightForm::kF32,
                                              WeightForm::kFp8, WeightForm::kNvfp4};
/// "bf16", ...: for test names.
std::string short_name(DType dtype);
std::string short_name(WeightForm form);

}  // namespace fulgur::test
