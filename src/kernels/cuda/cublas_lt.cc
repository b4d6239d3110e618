#include "kernels/cuda/cublas_lt.h"

#include <cublasLt.h>
#include <dlfcn.h>

#include <array>
#include <map>
#include <string>

#include "base/error.h"
#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/memory.h"

namespace fulgur::cuda {
namespace {

constexpr int64_t kAlignment = 16;

// The names that distributions and NVIDIA's own toolkit give it; its major version is the headers'.
constexpr std::array kLibraryNames = {"libcublasLt.so.13", "/usr/local/cuda/lib64/libcublasLt.so.13"};
static_assert(CUBLAS_VER_MAJOR == 13);

bool aligned(const void* data, int64_t stride_bytes) {
  return reinterpret_cast<uintptr_t>(data) % kAlignment == 0 && stride_bytes % kAlignment == 0;
}

}  // namespace

bool cublas_takes(const Operand& x, const Weight& w, const Operand& y) {
  return x.dtype == DType::kBf16 && w.form == WeightForm::kBf16 && y.dtype == DType::kF32 &&
         aligned(x.data, 2 * x.stride) && aligned(w.data, 2 * w.cols) && aligned(y.data, 4 * y.stride);
}

/// The functions that are used, found by name, and a handle.
struct CublasLt::Library {
  void* opened = nullptr;
  cublasLtHandle_t handle = nullptr;
#define FULGUR_CUBLAS(function) decltype(&::function) function = nullptr;
#define FULGUR_CUBLAS_FUNCTIONS(X)        \
  X(cublasLtCreate)                       \
  X(cublasLtDestroy)                      \
  X(cublasLtGetStatusName)                \
  X(cublasLtMatmul)                       \
  X(cublasLtMatmulAlgoGetHeuristic)       \
  X(cublasLtMatmulDescCreate)             \
  X(cublasLtMatmulDescDestroy)            \
  X(cublasLtMatmulDescSetAttribute)       \
  X(cublasLtMatmulPreferenceCreate)       \
  X(cublasLtMatmulPreferenceDestroy)      \
  X(cublasLtMatmulPreferenceSetAttribute) \
  X(cublasLtMatrixLayoutCreate)           \
  X(cublasLtMatrixLayoutDestroy)
  FULGUR_CUBLAS_FUNCTIONS(FULGUR_CUBLAS)
#undef FULGUR_CUBLAS

  Library() {
    for (const char* name : kLibraryNames) {
      opened = dlopen(name, RTLD_NOW | RTLD_LOCAL);
      if (opened != nullptr) break;
    }
    if (opened == nullptr) {
      throw Error(Problem{.kind = ErrorKind::kDevice,
                          .message = "cuBLASLt, which multiplies on the GPU, could not be opened.",
                          .expected = std::string(kLibraryNames[0]) + ", where the dynamic linker looks",
                          .found = dlerror(),
                          .todo = "install NVIDIA's cuBLAS 13, or name its folder in LD_LIBRARY_PATH"});
    }
#define FULGUR_CUBLAS(function) find(function, #function);
    FULGUR_CUBLAS_FUNCTIONS(FULGUR_CUBLAS)
#undef FULGUR_CUBLAS
    check(cublasLtCreate(&handle), "cublasLtCreate");
  }
  /// The library stays open: closing it while the driver holds its kernels is asking for trouble.
  ~Library() { cublasLtDestroy(handle); }
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;

  template <typename F>
  void find(F& function, const char* name) {
    function = reinterpret_cast<F>(dlsym(opened, name));
    if (function == nullptr) fail(name, "this cuBLASLt doesn't have it");
  }
  void check(cublasStatus_t status, const char* call) const {
    if (status != CUBLAS_STATUS_SUCCESS) fail(call, cublasLtGetStatusName(status));
  }
};

/// y^T = w x^T in the library's column-major terms.
struct CublasLt::Plan {
  cublasLtMatmulDesc_t product = nullptr;
  cublasLtMatrixLayout_t w = nullptr;
  cublasLtMatrixLayout_t x = nullptr;
  cublasLtMatrixLayout_t y = nullptr;
  cublasLtMatmulAlgo_t algorithm{};
};

struct CublasLt::Plans {
  using Shape = std::array<int64_t, 5>;  // outputs, tokens, width, strides of x and y
  std::map<Shape, Plan> of_shape;
};

CublasLt::CublasLt()
    : library_(std::make_unique<Library>()),
      plans_(std::make_unique<Plans>()),
      workspaces_(allocate(kDeviceBytes)) {}

CublasLt::~CublasLt() {
  for (const auto& [shape, plan] : plans_->of_shape) {
    for (cublasLtMatrixLayout_t layout : {plan.w, plan.x, plan.y})
      library_->cublasLtMatrixLayoutDestroy(layout);
    library_->cublasLtMatmulDescDestroy(plan.product);
  }
}

const CublasLt::Plan& CublasLt::plan_for(const Operand& x, const Weight& w, const Operand& y) {
  const Plans::Shape shape = {w.rows, x.rows, w.cols, x.stride, y.stride};
  if (const auto found = plans_->of_shape.find(shape); found != plans_->of_shape.end()) return found->second;

  const Library& lib = *library_;
  Plan plan;
  lib.check(lib.cublasLtMatmulDescCreate(&plan.product, CUBLAS_COMPUTE_32F, CUDA_R_32F),
            "cublasLtMatmulDescCreate");
  const cublasOperation_t transpose = CUBLAS_OP_T;
  lib.check(lib.cublasLtMatmulDescSetAttribute(plan.product, CUBLASLT_MATMUL_DESC_TRANSA, &transpose,
                                               sizeof transpose),
            "cublasLtMatmulDescSetAttribute");
  const auto layout = [&](cublasLtMatrixLayout_t& out, cudaDataType_t type, int64_t rows, int64_t cols,
                          int64_t stride) {
    lib.check(lib.cublasLtMatrixLayoutCreate(&out, type, static_cast<uint64_t>(rows),
                                             static_cast<uint64_t>(cols), stride),
              "cublasLtMatrixLayoutCreate");
  };
  layout(plan.w, CUDA_R_16BF, w.cols, w.rows, w.cols);
  layout(plan.x, CUDA_R_16BF, w.cols, x.rows, x.stride);
  layout(plan.y, CUDA_R_32F, w.rows, x.rows, y.stride);

  cublasLtMatmulPreference_t preference = nullptr;
  lib.check(lib.cublasLtMatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate");
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    lib.check(lib.cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value),
              "cublasLtMatmulPreferenceSetAttribute");
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{kWorkspaceBytes});
  for (const auto attribute :
       {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
    prefer(attribute, static_cast<uint32_t>(kAlignment));
  }
  cublasLtMatmulHeuristicResult_t result{};
  int found = 0;
  const cublasStatus_t status = lib.cublasLtMatmulAlgoGetHeuristic(
      lib.handle, plan.product, plan.w, plan.x, plan.y, plan.y, preference, 1, &result, &found);
  lib.check(lib.cublasLtMatmulPreferenceDestroy(preference), "cublasLtMatmulPreferenceDestroy");
  lib.check(status == CUBLAS_STATUS_SUCCESS && found == 0 ? CUBLAS_STATUS_NOT_SUPPORTED : status,
            "cublasLtMatmulAlgoGetHeuristic");
  plan.algorithm = result.algo;
  return plans_->of_shape.emplace(shape, plan).first->second;
}

void CublasLt::multiply(cudaStream_t stream, bool on_side, const Operand& x, const Weight& w,
                        const Operand& y) {
  const Plan& plan = plan_for(x, w, y);
  const float one = 1;
  const float zero = 0;
  void* workspace = static_cast<std::byte*>(workspaces_.get()) + (on_side ? kWorkspaceBytes : 0);
  library_->check(library_->cublasLtMatmul(library_->handle, plan.product, &one, w.data, plan.w, x.data,
                                           plan.x, &zero, y.data, plan.y, y.data, plan.y, &plan.algorithm,
                                           workspace, kWorkspaceBytes, stream),
                  "cublasLtMatmul");
}

}  // namespace fulgur::cuda
