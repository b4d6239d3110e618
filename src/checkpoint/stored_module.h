#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/fp8_scheme.h"
#include "checkpoint/ledger.h"
#include "checkpoint/load_plan.h"
#include "checkpoint/parameter.h"

namespace fulgur {

/// Reads off a checkpoint's tensors what a module is stored as (docs/spec/checkpoints.md, section 3).
class ModuleReader {
 public:
  ModuleReader(Ledger& ledger, const Fp8Scheme& scheme) : ledger_(ledger), scheme_(scheme) {}

  /// The tensor that stores <module>.weight, by any of the names that a storage form gives it (two of them
  /// conflict); any other tensor by its own name. -1 where there is none.
  int find(std::string_view tensor);

  /// Whether that tensor's absence may be the fault of a file that could not be read, which is said already,
  /// or of the index, which complain_of_index() says then.
  [[nodiscard]] bool may_be_unread(std::string_view tensor);

  /// The module whose weight is tensor `weight`, with the scales of its form, consumed. The steps are left to
  /// be chosen. Empty, with every problem of it, where form, shape or scales are not what the part needs.
  std::optional<PlannedSource> read(const Part& part, int weight, bool quantizable);

  /// Whether a scale is of the form of the weight beside it, or of one that may be meant where that can't be
  /// told, so that what becomes of it is the weight's affair.
  [[nodiscard]] bool belongs(int scale) const;
  /// A scale that belongs to nothing; `weight_missing`: the model needs its weight, which no file holds.
  void complain_of_orphan(int scale, bool weight_missing);

  /// Of every shard in which something was looked for that the index doesn't list.
  void complain_of_index();

  /// Input scales that were found, in order: nothing needs them.
  [[nodiscard]] const std::vector<int>& unneeded() const { return unneeded_; }

 private:
  /// By its dtype, and its name's last component where that is a weight's.
  [[nodiscard]] const StorageForm* form_of(int weight, std::string_view component) const;
  bool form_fits(const StorageForm* form, int weight, bool quantizable);
  /// `form` null: it can't be told which is meant, and a shape of any will do.
  bool weight_fits(const StorageForm* form, const Part& part, int weight);
  /// Two weights of one module, whose scales can't be told apart: both by themselves, if neither fits.
  void check_rivals(const Part& part, bool quantizable);
  bool find_scales(const StorageForm& form, const Part& part, bool weight_fits, PlannedSource& source);
  bool scale_fits(const Part& part, const PlannedScale& scale, bool weight_fits, PlannedSource& source);
  bool scale_dtype_fits(const PlannedScale& scale);

  /// The same of a tensor by its own name.
  bool lies_unread(std::string_view tensor);

  Ledger& ledger_;
  const Fp8Scheme& scheme_;
  std::vector<int> unneeded_;
  std::map<std::string, std::set<std::string>> unlisted_;  // what was looked for, by the shard that holds it
};

/// Whether a name's last component is that of a scale of any form.
bool is_scale(std::string_view tensor);

/// "[128 (index_head_dim), 7168 (hidden_size)]"
std::string shape_with_fields(const std::vector<Dim>& shape);

}  // namespace fulgur
