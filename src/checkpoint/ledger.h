#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "checkpoint/catalog.h"

namespace fulgur {

/// The books that resolving keeps over a catalog: which tensors have been used, which are at fault, and
/// everything that is wrong. Tensors go by their number, the index into Catalog::entries.
class Ledger {
 public:
  explicit Ledger(const Catalog& catalog);  // which must outlive this

  [[nodiscard]] const Catalog& catalog() const { return catalog_; }
  [[nodiscard]] int size() const { return static_cast<int>(state_.size()); }
  [[nodiscard]] const CatalogEntry& entry(int number) const;
  /// -1 where there is none of this whole name.
  [[nodiscard]] int find(std::string_view name) const;
  [[nodiscard]] std::string file_of(int number) const;
  /// "model.norm.weight (BF16 [64])"
  [[nodiscard]] std::string described(int number) const;

  void consume(int number) { state(number).consumed = true; }
  [[nodiscard]] bool consumed(int number) const { return state_[static_cast<size_t>(number)].consumed; }
  /// The catalog's reader said something of it.
  [[nodiscard]] bool damaged(int number) const { return at(number).damaged; }
  /// A problem of that kind names it.
  [[nodiscard]] bool said(int number, ErrorKind kind) const { return (at(number).said & bit(kind)) != 0; }

  void report(Problem problem) { problems_.push_back(std::move(problem)); }
  /// A problem of one tensor, whose file and name are filled in; once of a kind. Of a tensor whose header is
  /// at fault nothing more is said.
  void complain(int number, Problem problem);
  /// Tensors of which there may be one only; they are consumed.
  void conflict(const std::vector<int>& numbers);
  [[nodiscard]] std::vector<Problem> problems() && { return std::move(problems_); }

 private:
  struct State {
    bool consumed = false;
    bool damaged = false;  // by what the catalog's reader said of it
    uint32_t said = 0;     // a bit for each kind of problem
  };
  static uint32_t bit(ErrorKind kind) { return uint32_t{1} << static_cast<int>(kind); }
  State& state(int number) { return state_[static_cast<size_t>(number)]; }
  [[nodiscard]] const State& at(int number) const { return state_[static_cast<size_t>(number)]; }

  const Catalog& catalog_;
  /// Numbers by hash of their names, in the first free slot from there on; the hash's upper half beside each.
  struct Slot {
    uint32_t hash = 0;
    int number = -1;
  };
  std::vector<Slot> slots_;   // a power of two of them, at least half of them free
  std::vector<State> state_;  // parallel to the catalog's entries
  std::vector<Problem> problems_;
};

/// "a", "a and b", "a, b and c"
std::string enumerate(const std::vector<std::string>& items);

/// "a.b.weight" -> {"a.b", "weight"}
std::pair<std::string_view, std::string_view> split_last(std::string_view name);

}  // namespace fulgur
