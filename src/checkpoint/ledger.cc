#include "checkpoint/ledger.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <functional>
#include <utility>

#include "base/printable.h"
#include "checkpoint/safetensors_header.h"

namespace fulgur {
namespace {

uint32_t upper_half(size_t hash) { return static_cast<uint32_t>(hash >> 32U); }

}  // namespace

Ledger::Ledger(const Catalog& catalog) : catalog_(catalog), state_(catalog.entries.size()) {
  slots_.resize(std::bit_ceil(2 * catalog.entries.size() + 2));
  for (size_t i = 0; i < catalog.entries.size(); ++i) {
    const std::string& name = catalog.entries[i].name;
    if (!catalog.gaps.named.empty()) state_[i].damaged = catalog.gaps.named.contains(name);
    const size_t hash = std::hash<std::string_view>()(name);
    size_t at = hash & (slots_.size() - 1);
    while (slots_[at].number >= 0) at = (at + 1) & (slots_.size() - 1);
    slots_[at] = {.hash = upper_half(hash), .number = static_cast<int>(i)};
  }
}

const CatalogEntry& Ledger::entry(int number) const { return catalog_.entries[static_cast<size_t>(number)]; }

int Ledger::find(std::string_view name) const {
  const size_t hash = std::hash<std::string_view>()(name);
  for (size_t at = hash & (slots_.size() - 1);; at = (at + 1) & (slots_.size() - 1)) {
    const Slot& slot = slots_[at];
    if (slot.number < 0 || (slot.hash == upper_half(hash) && entry(slot.number).name == name))
      return slot.number;
  }
}

std::string Ledger::file_of(int number) const { return catalog_.file_of(entry(number)); }

std::string Ledger::described(int number) const {
  const CatalogEntry& e = entry(number);
  return fmt::format("{} ({} {})", printable_name(e.name), printable(e.dtype_name), shape_text(e.shape));
}

void Ledger::complain(int number, Problem problem) {
  if (at(number).damaged || said(number, problem.kind)) return;
  state(number).said |= bit(problem.kind);
  problem.file = file_of(number);
  problem.tensor = entry(number).name;
  problems_.push_back(std::move(problem));
}

void Ledger::conflict(const std::vector<int>& numbers) {
  constexpr auto kConflict = ErrorKind::kConflictingTensors;
  const bool known =
      std::all_of(numbers.begin(), numbers.end(), [&](int number) { return said(number, kConflict); });
  std::vector<std::string> names;
  std::vector<std::string> found;
  for (const int number : numbers) {
    names.push_back(printable(entry(number).name));
    found.push_back(described(number));
    state(number).consumed = true;
    state(number).said |= bit(kConflict);
  }
  if (known) return;
  problems_.push_back(
      {.kind = ErrorKind::kConflictingTensors,
       .file = file_of(numbers.back()),
       .tensor = entry(numbers.front()).name,
       .message = fmt::format("{} exclude one another, but the checkpoint holds them all.", enumerate(names)),
       .expected = "one form of this weight",
       .found = enumerate(found),
       .todo = "keep one form of this weight and convert again"});
}

std::string enumerate(const std::vector<std::string>& items) {
  std::string text;
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) text += i + 1 == items.size() ? " and " : ", ";
    text += items[i];
  }
  return text;
}

std::pair<std::string_view, std::string_view> split_last(std::string_view name) {
  const size_t dot = name.rfind('.');
  if (dot == std::string_view::npos) return {{}, name};
  return {name.substr(0, dot), name.substr(dot + 1)};
}

}  // namespace fulgur
