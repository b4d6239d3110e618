#include "checkpoint/catalog.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/printable.h"
#include "checkpoint/safetensors_header.h"
#include "checkpoint/shard_index.h"

namespace fulgur {
namespace {

/// Reads one more file into the catalog. Throws what is wrong with the file; appends what is wrong with its
/// header.
void add_file(const std::filesystem::path& path, Catalog& catalog, std::vector<Problem>& problems) {
  const auto file = MappedFile::open(path);
  const auto number = static_cast<int>(catalog.files.size());
  catalog.files.push_back(file);
  auto entries = read_header(*file, number, problems);
  file->throw_if_damaged();
  std::move(entries.begin(), entries.end(), std::back_inserter(catalog.entries));
}

/// The same for a shard of a folder: whether its tensors are known. A listed shard that isn't there is the
/// index's fault.
bool add_shard(const std::filesystem::path& path, bool listed, Catalog& catalog,
               std::vector<Problem>& problems) {
  std::error_code error;
  if (listed && std::filesystem::status(path, error).type() == std::filesystem::file_type::not_found) {
    const bool dangling = std::filesystem::is_symlink(std::filesystem::symlink_status(path, error));
    problems.push_back(
        {.kind = ErrorKind::kBadIndex,
         .file = path.filename().string(),
         .message = dangling ? "The index lists this file, which is a link to a file that is not there."
                             : "The index lists this file, which is not there.",
         .expected = "the file, or a link to it, beside the index",
         .found = dangling ? "a link that leads nowhere" : "no such file",
         .todo = "fetch it"});
    return false;
  }
  const size_t before = problems.size();
  const size_t entries_before = catalog.entries.size();
  try {
    add_file(path, catalog, problems);
  } catch (const Error& failure) {
    problems.resize(before);  // a header that changed while it was read says nothing more
    problems.insert(problems.end(), failure.problems().begin(), failure.problems().end());
  }
  return problems.size() == before || catalog.entries.size() > entries_before;
}

/// No tensor may lie in two shards. Twice in one header is the header's fault, and said.
void check_unique(const Catalog& catalog, std::vector<Problem>& problems) {
  for (size_t i = 1; i < catalog.entries.size(); ++i) {
    const CatalogEntry& entry = catalog.entries[i];
    const CatalogEntry& before = catalog.entries[i - 1];
    if (entry.name != before.name || entry.file == before.file) continue;
    const std::string file = catalog.file_of(entry);
    const std::string other = catalog.file_of(before);
    problems.push_back(
        {.kind = ErrorKind::kBadIndex,
         .file = file,
         .tensor = entry.name,
         .message = fmt::format("'{}' lies in two shards, {} and {}.", printable(entry.name), other, file),
         .expected = "each tensor in one shard",
         .found = fmt::format("in {} and in {}", other, file),
         .todo =
             "move the file that is no part of this checkpoint elsewhere, or fetch the checkpoint again"});
  }
}

/// Every tensor that the index lists lies where it says.
void check_listed(const ShardList& list, const std::vector<bool>& known, const Catalog& catalog,
                  std::vector<Problem>& problems) {
  const CatalogEntry* next = catalog.entries.data();  // both are sorted
  const CatalogEntry* end = catalog.entries.data() + catalog.entries.size();
  for (const auto& [tensor, number] : list.listed) {
    if (!known[static_cast<size_t>(number)]) continue;  // what is wrong with the file is said already
    const std::string& file = list.files[static_cast<size_t>(number)];
    while (next != end && next->name < tensor) ++next;
    const CatalogEntry* first = next != end && next->name == tensor ? next : nullptr;
    const CatalogEntry* at = first;
    while (at != nullptr && at != end && at->name == tensor && catalog.file_of(*at) != file) ++at;
    if (at != nullptr && at != end && at->name == tensor) continue;
    problems.push_back({.kind = ErrorKind::kBadIndex,
                        .file = file,
                        .tensor = tensor,
                        .message = fmt::format("The index places '{}' in this file, which does not hold it.",
                                               printable(tensor)),
                        .expected = "in " + file,
                        .found = first == nullptr ? "in none of the shards" : "in " + catalog.file_of(*first),
                        .todo = fmt::format("fetch this file and {} again", kIndexFile)});
  }
}

/// Tensors in the shards that the index leaves out.
struct Omissions {
  size_t count = 0;
  const CatalogEntry* first = nullptr;
};
Omissions omissions(const ShardList& list, const Catalog& catalog) {
  Omissions omitted;
  auto at = list.listed.begin();
  for (const CatalogEntry& entry : catalog.entries) {
    while (at != list.listed.end() && at->first < entry.name) ++at;
    if (at != list.listed.end() && at->first == entry.name) continue;
    if (omitted.count++ == 0) omitted.first = &entry;
  }
  return omitted;
}

/// They are used all the same: the headers are the authority.
void notice_omissions(const ShardList& list, Catalog& catalog) {
  const Omissions omitted = omissions(list, catalog);
  if (list.listed.empty() || omitted.count == 0) return;
  catalog.notices.push_back(
      fmt::format("{} leaves out {} of the tensors in its shards, the first being {}; they are used.",
                  kIndexFile, omitted.count, printable_name(omitted.first->name)));
}

/// What the folder's other shards hold. They are no part of the checkpoint, whatever is wrong with them.
std::map<std::string, std::string, std::less<>> unlisted_tensors(const std::filesystem::path& folder,
                                                                 const ShardList& list,
                                                                 const Catalog& catalog) {
  std::map<std::string, std::string, std::less<>> tensors;
  for (const std::string& file : list.unlisted) {
    Catalog other;
    std::vector<Problem> ignored;
    try {
      add_file(folder / file, other, ignored);
    } catch (const Error&) {
      continue;
    }
    for (const CatalogEntry& entry : other.entries) {
      if (catalog.find(entry.name) == nullptr) tensors.emplace(entry.name, file);
    }
  }
  return tensors;
}

/// What `problems` leave open. An index that omits nothing of the shards that are known is believed to omit
/// nothing of the others.
CatalogGaps gaps_of(const ShardList& list, const std::vector<bool>& known, const Catalog& catalog,
                    const std::vector<Problem>& problems) {
  CatalogGaps gaps;
  if (problems.empty()) return gaps;
  for (const Problem& problem : problems) {
    if (!problem.tensor.empty()) gaps.named.insert(problem.tensor);
  }
  for (const auto& [tensor, number] : list.listed) {
    if (!known[static_cast<size_t>(number)]) gaps.unread.insert(tensor);
  }
  const bool all_known = std::find(known.begin(), known.end(), false) == known.end();
  gaps.anything =
      list.listed.empty() ? !all_known || !list.complete : !all_known && omissions(list, catalog).count > 0;
  return gaps;
}

/// Merges what is sorted file by file; mostly one file's names follow another's.
void sort_entries(Catalog& catalog) {
  const auto begin = catalog.entries.begin();
  const auto by_name = [](const CatalogEntry& a, const CatalogEntry& b) { return a.name < b.name; };
  std::vector<ptrdiff_t> ends;  // of the runs
  for (size_t i = 0; i < catalog.entries.size(); ++i) {
    if (i + 1 == catalog.entries.size() || catalog.entries[i].file != catalog.entries[i + 1].file)
      ends.push_back(static_cast<ptrdiff_t>(i + 1));
  }
  while (ends.size() > 1) {
    std::vector<ptrdiff_t> merged;
    ptrdiff_t first = 0;
    for (size_t run = 0; run < ends.size(); run += 2) {
      const ptrdiff_t end = ends[std::min(run + 1, ends.size() - 1)];
      if (const auto middle = begin + ends[run]; run + 1 < ends.size()) {
        const auto late = std::upper_bound(begin + first, middle, *middle, by_name);
        const auto early = std::lower_bound(middle, begin + end, *(middle - 1), by_name);
        std::inplace_merge(late, middle, early, by_name);
      }
      merged.push_back(first = end);
    }
    ends = std::move(merged);
  }
}

}  // namespace

const CatalogEntry* Catalog::find(std::string_view name) const {
  const auto at = std::lower_bound(
      entries.begin(), entries.end(), name,
      [](const CatalogEntry& entry, std::string_view wanted) { return entry.name < wanted; });
  return at != entries.end() && at->name == name ? &*at : nullptr;
}

std::span<const std::byte> Catalog::bytes(const CatalogEntry& entry) const {
  return files[static_cast<size_t>(entry.file)]->bytes().subspan(entry.offset, entry.bytes);
}

std::string Catalog::file_of(const CatalogEntry& entry) const {
  return entry.drawn ? source : files[static_cast<size_t>(entry.file)]->file_name();
}

void Catalog::throw_if_damaged(const CatalogEntry& entry) const {
  if (!entry.drawn) files[static_cast<size_t>(entry.file)]->throw_if_damaged();
}

void Catalog::release(const CatalogEntry& entry) const {
  if (!entry.drawn) files[static_cast<size_t>(entry.file)]->release(entry.offset, entry.bytes);
}

void Catalog::read(const CatalogEntry& entry, uint64_t begin, std::span<std::byte> to) const {
  if (!entry.drawn) {
    const std::span<const std::byte> from = bytes(entry).subspan(begin, to.size());
    std::copy(from.begin(), from.end(), to.begin());
  } else {
    draw(*entry.drawn, entry.dtype, static_cast<int64_t>(begin / size_bytes(entry.dtype)), to);
  }
}

std::string index_text(const CatalogEntry& entry, int64_t element, int64_t cols) {
  std::vector<int64_t> dims = entry.shape;
  if (!dims.empty()) dims.back() = cols;
  std::vector<int64_t> place(std::max<size_t>(dims.size(), 1), 0);
  for (size_t d = dims.size(); d-- > 0;) {
    place[d] = element % dims[d];
    element /= dims[d];
  }
  return fmt::format("[{}]", fmt::join(place, ", "));
}

CatalogSurvey survey_catalog(const std::filesystem::path& folder) {
  std::error_code error;
  if (!std::filesystem::is_directory(folder, error)) {
    throw Error(Problem{.kind = ErrorKind::kIoError,
                        .file = folder.string(),
                        .message = "This is not a folder that can be read.",
                        .expected = "a checkpoint's folder",
                        .found = error ? error.message() : "something else",
                        .todo = "name the folder that holds the model's files"});
  }
  CatalogSurvey survey;
  std::vector<Problem>& problems = survey.problems;
  Catalog& catalog = survey.catalog;
  const ShardList list = list_shards(folder, problems);
  catalog.source = list.source;
  std::vector<bool> known;  // parallel to list.files
  for (const std::string& name : list.files)
    known.push_back(add_shard(folder / name, !list.listed.empty(), catalog, problems));
  sort_entries(catalog);
  check_unique(catalog, problems);
  check_listed(list, known, catalog, problems);
  catalog.gaps = gaps_of(list, known, catalog, problems);
  catalog.gaps.unlisted = unlisted_tensors(folder, list, catalog);
  notice_omissions(list, catalog);
  return survey;
}

Catalog read_catalog(const std::filesystem::path& folder) {
  CatalogSurvey survey = survey_catalog(folder);
  if (!survey.problems.empty()) throw Error(std::move(survey.problems));
  return std::move(survey.catalog);
}

Catalog read_safetensors(const std::filesystem::path& file) {
  Catalog catalog{.source = file.filename().string()};
  std::vector<Problem> problems;
  add_file(file, catalog, problems);
  if (!problems.empty()) throw Error(std::move(problems));
  return catalog;
}

}  // namespace fulgur
