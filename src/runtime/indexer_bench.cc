#include "runtime/indexer_bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <memory>

#include "base/error.h"
#include "kernels/cuda/cuda_backend.h"
#include "ops/arena.h"
#include "ops/context.h"
#include "runtime/indexer_bench_step.h"

namespace fulgur {
namespace {

constexpr size_t kLeastCalls = 64;
constexpr int64_t kMostPlainScores = 1 << 20;  // the selection for any shape then takes milliseconds a call

int calls_for(size_t copies) { return static_cast<int>(std::max(kLeastCalls, copies)); }

struct Way {
  const char* name;
  IndexerProjection mode;
  bool tuned;
};
constexpr Way kWays[] = {{"separate", IndexerProjection::kSeparate, false},
                         {"overlapped", IndexerProjection::kOverlapped, false},
                         {"fused", IndexerProjection::kFused, false},
                         {"own", IndexerProjection::kFused, true}};

class Bench {
 public:
  Bench(const IndexerBench& bench, const std::function<void(const BenchLine&)>& take)
      : bench_(bench), take_(take), backend_(*cuda_backend()) {
    for (const bool pdl : {false, true}) {
      for (const bool tuned : {false, true})
        streams_.push_back(make_cuda_stream({.pdl = pdl, .tuned = tuned}));
    }
  }

  void run() {
    for (const int tokens : bench_.tokens) {
      const IndexerBenchStep step(bench_, backend_, tokens);
      bool own_prepare = false;
      step.with_prepare(IndexerProjection::kFused, 0,
                        [&](const IndexerPrepare& op) { own_prepare = has_tuned_kernels(op); });
      const bool own_select = has_tuned_kernels(step.select(0));
      if (bench_.own_alone && !(own_prepare && own_select)) {
        throw Error(
            Problem{.kind = ErrorKind::kBadRequest,
                    .message = "The indexer has no tuned kernels for so many tokens or so long a context.",
                    .expected = "shapes that they take",
                    .found = fmt::format("{} tokens of contexts of {}", tokens, bench_.context),
                    .todo = "ask for less, or leave --own away (IndexerBench::own_alone)"});
      }
      bench_prepare(step, own_prepare);
      bench_select(step, own_select);
      if (own_prepare && own_select) bench_whole(step);
    }
  }

 private:
  using Queue = std::function<void(Context&, int call)>;

  void bench_prepare(const IndexerBenchStep& step, bool own) {
    const size_t copies = copies_for(step.projection_bytes());
    for (const Way& way : kWays) {
      if (way.tuned ? !own : bench_.own_alone) continue;
      measure(step, "projection", way.name, way.tuned, step.projection_bytes(), copies,
              [&](Context& context, int call) {
                step.with_prepare(way.mode, call, [&](const IndexerPrepare& op) {
                  queue_projection(context, op, step.projected());
                });
              });
    }
    for (const Way& way : kWays) {
      if (way.tuned ? !own : bench_.own_alone) continue;
      measure(step, "prepare", way.name, way.tuned, step.projection_bytes() + step.query_bytes(), copies,
              [&](Context& context, int call) { queue_prepare(step, way.mode, context, call); });
    }
  }

  void bench_select(const IndexerBenchStep& step, bool own) {
    const bool plain_is_slow = int64_t{step.tokens()} * bench_.context > kMostPlainScores;
    for (const bool tuned : {false, true}) {
      if (tuned ? !own : bench_.own_alone || (own && plain_is_slow)) continue;
      measure(step, "select", tuned ? "own" : "any shape", tuned, step.key_bytes(),
              copies_for(step.key_bytes()),
              [&](Context& context, int call) { fulgur::run(context, step.select(call)); });
    }
  }

  /// As a layer runs them: the selection reads what the preparation wrote just before it.
  void bench_whole(const IndexerBenchStep& step) {
    measure(step, "indexer", "own", true, step.projection_bytes() + step.query_bytes() + step.key_bytes(),
            step.copies(), [&](Context& context, int call) {
              queue_prepare(step, IndexerProjection::kFused, context, call);
              fulgur::run(context, step.select(call));
            });
  }

  static void queue_prepare(const IndexerBenchStep& step, IndexerProjection mode, Context& context,
                            int call) {
    step.with_prepare(mode, call, [&](const IndexerPrepare& op) { fulgur::run(context, op); });
  }

  /// Times `queue(context, call)` on both graphs, and the read of as many bytes.
  void measure(const IndexerBenchStep& step, const std::string& what, const std::string& how, bool tuned,
               size_t bytes, size_t copies, const Queue& queue) {
    BenchLine line{.what = what, .how = how, .tokens = step.tokens(), .bytes = bytes};
    const auto time = [&](bool pdl) {
      cuda::Stream& stream = *streams_[(pdl ? 2U : 0U) + (tuned ? 1U : 0U)];
      Arena arena(backend_);
      Context context{.backend = &backend_, .stream = &stream, .arena = &arena};
      return Spread::of(
          time_replays(stream, calls_for(copies), bench_.replays, [&](int call) { queue(context, call); }));
    };
    line.without_pdl = time(false);
    line.with_pdl = time(true);
    const Limit& read = limit(bytes);
    line.limit_us = read.us;
    line.limit_us_with_pdl = read.us_with_pdl;
    take_(line);
  }

  struct Limit {
    double us;
    double us_with_pdl;
  };
  const Limit& limit(size_t bytes) {
    if (const auto known = limits_.find(bytes); known != limits_.end()) return known->second;
    const size_t whole = bytes / 256 * 256;
    const RotatedData data(backend_, repeated_words(whole / 4, 4), copies_for(whole));
    const auto time = [&](cuda::Stream& stream) {
      Context context{.backend = &backend_, .stream = &stream};
      return Spread::of(time_replays(stream, calls_for(data.copies()), bench_.replays,
                                     [&](int call) { queue_read(context, data.copy(call), whole); }))
          .median;
    };
    return limits_[bytes] = {time(*streams_[0]), time(*streams_[2])};
  }

  const IndexerBench& bench_;
  const std::function<void(const BenchLine&)>& take_;
  const Backend& backend_;
  std::vector<std::shared_ptr<cuda::Stream>> streams_;  // PDL off and on, plain and tuned
  std::map<size_t, Limit> limits_;                      // of bytes
};

}  // namespace

void bench_indexer(const IndexerBench& bench, const std::function<void(const BenchLine&)>& take) {
  if (const CudaStatus status = cuda_status(); !status.usable) {
    throw Error(Problem{.kind = ErrorKind::kDevice,
                        .message = status.why_not,
                        .expected = "an NVIDIA GPU of compute capability 9.0 (H100, H200)",
                        .todo = "run this where there is one, by a build with -DFULGUR_CUDA=ON; the CPU's "
                                "ops have bench/ops_bench"});
  }
  Bench(bench, take).run();
}

}  // namespace fulgur
