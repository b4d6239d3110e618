#pragma once

#include <functional>
#include <mutex>
#include <string_view>
#include <utility>

#include "ops/attention_prepare.h"
#include "ops/backend.h"
#include "ops/profile.h"
#include "runtime/choose_backend.h"

namespace fulgur {

/// Hears of every call of hooked_backend(), before it, on the thread that makes it. May throw: the call does
/// then. There is one, for a back end is a table of plain functions.
class BackendHook {
 public:
  using Function = std::function<void(std::string_view entry)>;  // "embed", "upload", ...

  static void set(Function function) {
    const std::lock_guard lock(mutex());
    current() = std::move(function);
  }
  /// While it is held, every call waits.
  [[nodiscard]] static std::unique_lock<std::mutex> hold() { return std::unique_lock(mutex()); }
  static void call(std::string_view entry) {
    const std::lock_guard lock(mutex());
    if (current()) current()(entry);
  }

 private:
  static std::mutex& mutex() {
    static std::mutex one;
    return one;
  }
  static Function& current() {
    static Function one;
    return one;
  }
};

namespace hooked {

inline const Backend& real() {
  static const Backend& backend = choose_backend();
  return backend;
}

template <OpKind kKind, auto kEntry>
struct Entry;
template <OpKind kKind, typename Op, void (*Backend::*kEntry)(Context&, const Op&)>
struct Entry<kKind, kEntry> {
  static void run(Context& context, const Op& op) {
    BackendHook::call(name(kKind));
    (real().*kEntry)(context, op);
  }
};
template <OpKind kKind, auto kEntry>
void set(Backend& table) {
  if (real().*kEntry != nullptr) table.*kEntry = Entry<kKind, kEntry>::run;
}

/// As a back end would have it that merges the two.
inline void attention_prepare(Context& context, const AttentionPrepare& op) {
  BackendHook::call(name(OpKind::kAttentionPrepare));
  if (real().attention_prepare != nullptr) return real().attention_prepare(context, op);
  fulgur::run(context, op.mla);
  if (op.indexer != nullptr) fulgur::run(context, *op.indexer);
}

}  // namespace hooked

/// The kernels of choose_backend(), behind the hook.
inline const Backend& hooked_backend() {
  static const Backend backend = [] {
    Backend table = hooked::real();
    hooked::set<OpKind::kEmbed, &Backend::embed>(table);
    hooked::set<OpKind::kMtpInput, &Backend::mtp_input>(table);
    hooked::set<OpKind::kRmsNorm, &Backend::rms_norm>(table);
    hooked::set<OpKind::kAddRmsNorm, &Backend::add_rms_norm>(table);
    hooked::set<OpKind::kLinear, &Backend::linear>(table);
    hooked::set<OpKind::kLmHead, &Backend::lm_head>(table);
    hooked::set<OpKind::kMlaPrepare, &Backend::mla_prepare>(table);
    hooked::set<OpKind::kIndexerPrepare, &Backend::indexer_prepare>(table);
    hooked::set<OpKind::kIndexerSelect, &Backend::indexer_select>(table);
    hooked::set<OpKind::kIndexerScores, &Backend::indexer_scores>(table);
    hooked::set<OpKind::kSparseMla, &Backend::sparse_mla>(table);
    hooked::set<OpKind::kDenseMla, &Backend::dense_mla>(table);
    hooked::set<OpKind::kMlaOutput, &Backend::mla_output>(table);
    hooked::set<OpKind::kFfn, &Backend::ffn>(table);
    hooked::set<OpKind::kMoe, &Backend::moe>(table);
    hooked::set<OpKind::kSample, &Backend::sample>(table);
    table.attention_prepare = hooked::attention_prepare;
    table.upload = [](void* to, const void* from_host, size_t bytes) {
      BackendHook::call("upload");
      hooked::real().upload(to, from_host, bytes);
    };
    table.download = [](void* to_host, const void* from, size_t bytes) {
      BackendHook::call("download");
      hooked::real().download(to_host, from, bytes);
    };
    return table;
  }();
  return backend;
}

}  // namespace fulgur
