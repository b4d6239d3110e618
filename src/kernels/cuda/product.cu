// A product with a weight in any form, for any shape.
//
// A warp makes one output of kTokens tokens: its lanes stride over the columns, decode each weight once and
// multiply it with every token, then add their sums up in a fixed tree. So an output has one order of
// roundings, whatever the number of tokens. Each weight is read once a group of kTokens, from L2 mostly: fine
// for a decode step and for tests; what has to be fast has kernels of its own.

#include "kernels/cuda/element.cuh"
#include "kernels/cuda/product.h"
#include "kernels/cuda/stream_launch.h"

namespace fulgur::cuda {
namespace {

constexpr int kTokens = 8;
constexpr int kWarps = 4;
constexpr int kLanes = 32;

template <WeightForm kForm, typename X, typename Y>
__global__ void __launch_bounds__(kWarps* kLanes) product_kernel(Product p) {
  wait_for_predecessor();
  allow_successor();
  const int64_t outputs = p.w.rows / p.batches;
  const int64_t row = int64_t{blockIdx.x} * kWarps + threadIdx.x / kLanes;  // of the weight
  if (row >= p.w.rows) return;
  const int64_t batch = row / outputs;
  const int64_t first = int64_t{blockIdx.y} * kTokens;
  const auto count = static_cast<int>(min(int64_t{kTokens}, p.x.rows - first));
  const X* x = static_cast<const X*>(p.x.data) + first * p.x.stride + batch * p.x_batch;

  float sums[kTokens] = {};
  for (int64_t c = threadIdx.x % kLanes; c < p.w.cols; c += kLanes) {
    const float weight = weight_at<kForm>(p.w, row, c);
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      if (t < count) sums[t] = fmaf(load(x + t * p.x.stride + c), weight, sums[t]);
    }
  }
  Y* y = static_cast<Y*>(p.y.data) + first * p.y.stride + batch * p.y_batch + row % outputs;
#pragma unroll
  for (int t = 0; t < kTokens; ++t) {
    for (int step = kLanes / 2; step > 0; step /= 2) sums[t] += __shfl_xor_sync(~0U, sums[t], step);
    if (t < count && threadIdx.x % kLanes == 0) store(y + t * p.y.stride, sums[t]);
  }
}

template <WeightForm kForm>
void multiply_form(const Stream& stream, const Product& p) {
  const Grid grid{.blocks = dim3(static_cast<unsigned>((p.w.rows + kWarps - 1) / kWarps),
                                 static_cast<unsigned>((p.x.rows + kTokens - 1) / kTokens)),
                  .threads = kWarps * kLanes,
                  .pdl = !p.on_side};
  with_operand(p.x.dtype, [&](auto x) {
    with_operand(p.y.dtype, [&](auto y) {
      launch_on(p.on_side ? stream.side() : stream.main(), stream, "the kernel product", grid,
                product_kernel<kForm, decltype(x), decltype(y)>, p);
    });
  });
}

}  // namespace

void multiply(const Stream& stream, const Product& product) {
  if (product.x.rows == 0) return;
  switch (product.w.form) {
    case WeightForm::kBf16:
      return multiply_form<WeightForm::kBf16>(stream, product);
    case WeightForm::kF16:
      return multiply_form<WeightForm::kF16>(stream, product);
    case WeightForm::kF32:
      return multiply_form<WeightForm::kF32>(stream, product);
    case WeightForm::kFp8:
      return multiply_form<WeightForm::kFp8>(stream, product);
    case WeightForm::kNvfp4:
      return multiply_form<WeightForm::kNvfp4>(stream, product);
  }
}

}  // namespace fulgur::cuda
