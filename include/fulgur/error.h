#pragma once

#include <exception>
#include <string>
#include <string_view>
#include <vector>

namespace fulgur {

/// What went wrong. The names are stable: tests and `inspect --json` ask for them (docs/spec/checkpoints.md,
/// section 4).
enum class ErrorKind {
  kMissingTensor,
  kConflictingTensors,
  kShapeMismatch,
  kMissingScale,
  kOrphanScale,
  kBadScale,
  kUnknownDType,
  kUnexpectedTensor,
  kTruncatedFile,
  kBadHeader,
  kBadIndex,
  kBadValue,
  kIoError,
  kBadTokenizer,
  kBadConfig,
  kUnsupported,
  kBadRequest,  // a prompt, token id or option value that this model can't take
  kDevice,      // an instruction set or device that isn't there, or failed
};

/// "missing_tensor", "shape_mismatch", ...
std::string_view name(ErrorKind kind);

/// One refusal, as a colleague would tell it. `message` is a whole sentence that stands alone; the other
/// fields may be empty. Printed as `FILE: MESSAGE` and then an indented line each for expected, found and
/// what to do.
struct Problem {
  ErrorKind kind{};
  std::string file;    // the file's name as the user knows it
  std::string tensor;  // the tensor or config field
  std::string message;
  std::string expected;
  std::string found;
  std::string todo;
};

/// The printed form of one problem, without a final newline.
std::string describe(const Problem& problem);

/// Thrown at the edges: files, flags, requests. Carries every problem found there, and the context chain that
/// callers add on the way up ("loading models/x"), innermost first.
class Error : public std::exception {
 public:
  explicit Error(Problem problem);
  explicit Error(std::vector<Problem> problems);  // at least one
  /// For refusals that have no more to say than a sentence.
  Error(ErrorKind kind, std::string message);

  [[nodiscard]] ErrorKind kind() const { return problems_.front().kind; }
  [[nodiscard]] const std::vector<Problem>& problems() const { return problems_; }
  [[nodiscard]] const std::vector<std::string>& context() const { return context_; }
  /// All problems (at most 20 of a kind, then a count), blank-line separated; without the context chain.
  [[nodiscard]] const char* what() const noexcept override { return what_.c_str(); }

  void add_context(std::string context) { context_.push_back(std::move(context)); }

 private:
  std::vector<Problem> problems_;
  std::vector<std::string> context_;
  std::string what_;
};

}  // namespace fulgur
