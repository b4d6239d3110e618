// Checks the tuned kernels of the indexer's selection on a GPU, against oracles in double that know the spec
// alone: exact top-k of given scores on hard inputs, and the fused decode kernel, the row scores and the
// prompt scores. Prints a line a group and exits with 1 if anything was wrong.

#include "cuda/score_check.cuh"

namespace fulgur::cuda_test {
namespace {

void check_topk(const std::vector<int>& lengths, int topk, const std::vector<LaunchOptions>& ways) {
  const int rows = static_cast<int>(lengths.size()) * kScoreKinds;
  const int longest = *std::max_element(lengths.begin(), lengths.end());
  const int64_t stride = (longest + 3) / 4 * 4;
  const int page_stride = (longest + 63) / 64;
  std::vector<float> scores(rows * stride, NAN);
  std::vector<int32_t> position(rows);
  std::vector<int32_t> sequence(rows);
  std::vector<int32_t> pages(static_cast<size_t>(rows) * page_stride);
  std::vector<std::vector<int32_t>> expected(rows);
  for (int row = 0; row < rows; ++row) {
    const int length = lengths[row / kScoreKinds];
    const auto kind = static_cast<Scores>(row % kScoreKinds);
    position[row] = length - 1;
    sequence[row] = rows - 1 - row;
    for (int s = 0; s < length; ++s) {
      scores[row * stride + s] = score_at(77, static_cast<uint64_t>(row) * stride + s, s, length, kind);
    }
    if (kind == Scores::kNan && length <= topk) {
      expected[row].resize(length);  // not looked at
      std::iota(expected[row].begin(), expected[row].end(), 0);
    } else {
      expected[row] =
          best_positions(std::vector<float>(&scores[row * stride], &scores[row * stride] + length), topk);
    }
  }
  for (size_t i = 0; i < pages.size(); ++i) pages[i] = static_cast<int32_t>(word_at(5, i) % 100000);
  const DeviceArray<float> device_scores(scores);
  const DeviceArray<int32_t> device_position(position);
  const DeviceArray<int32_t> device_sequence(sequence);
  const DeviceArray<int32_t> device_pages(pages);
  DeviceArray<int32_t> positions(static_cast<size_t>(rows) * topk);
  DeviceArray<int32_t> slots(static_cast<size_t>(rows) * topk);
  DeviceArray<uint32_t> fault(rows);
  const cuda::TopkArguments arguments{
      device_scores.get(),
      stride,
      {device_position.get(), device_sequence.get(), device_pages.get(), page_stride, rows, longest},
      {topk, positions.get(), slots.get(), fault.get()}};
  for (const LaunchOptions& way : ways) {
    if (way.cluster > 0 && longest > 32768 * way.cluster) continue;
    positions.poison();
    slots.poison();
    must(cudaMemset(fault.get(), 0, rows * 4), "memset");
    must(cuda::launch_topk(arguments, way), "launch_topk");
    must(cudaDeviceSynchronize(), "topk");
    const auto got = positions.download();
    const auto got_slots = slots.download();
    const auto faults = fault.download();
    for (int row = 0; row < rows; ++row) {
      const std::string what = "topk " + std::to_string(topk) + " of " + std::to_string(position[row] + 1) +
                               ", " + kScoreNames[row % kScoreKinds] + ", cluster " +
                               std::to_string(way.cluster) + ", threads " + std::to_string(way.threads);
      same_selection(&got[static_cast<size_t>(row) * topk], &got_slots[static_cast<size_t>(row) * topk],
                     expected[row], topk, &pages[static_cast<size_t>(sequence[row]) * page_stride], what);
      if ((faults[sequence[row]] != 0) != expected[row].empty()) fail(what + ": fault bit");
    }
  }
  std::printf("topk %d, %d rows up to %d, %zu ways\n", topk, rows, longest, ways.size());
  std::fflush(stdout);
}

std::vector<int> ones(size_t all) { return std::vector<int>(all, 1); }
/// `long_ones`, then sequences so short that they are not scored, `all` in total: of a launch that gives so
/// many rows few blocks each.
std::vector<int> few_long(std::vector<int> long_ones, size_t all) {
  long_ones.resize(all, 70);
  return long_ones;
}

/// `others` in any order, and then those of `contexts` among them, `all` in total.
std::vector<int> among(const std::vector<int>& contexts, std::vector<int> others, size_t all) {
  const size_t different = others.size();
  for (size_t i = different; i + contexts.size() < all; ++i) others.push_back(others[i % different]);
  for (size_t i = 0; i < contexts.size(); ++i)
    others.insert(others.begin() + static_cast<int64_t>(word_at(6, i) % others.size()), contexts[i]);
  return others;
}

/// `context` for a sequence of each kind of scores, by turns.
std::vector<int> each_kind(std::initializer_list<int> contexts) {
  std::vector<int> all;
  for (const int context : contexts) all.insert(all.end(), kScoreKinds, context);
  return all;
}

std::vector<Case> cases(bool small) {
  const auto kinds = [](const char* name, int heads, int topk, int tokens,
                        std::initializer_list<int> contexts, std::vector<int> clusters) {
    const std::vector<int> each = each_kind(contexts);
    return Case{name,
                heads,
                Codes::kOnes,
                topk,
                tokens,
                each,
                std::vector<int>(each.size(), tokens),
                std::move(clusters)};
  };
  const auto loose = [](Case c, int bound) {
    c.bound = bound;
    return c;
  };
  if (small) {
    return {
        kinds("small kinds of scores", 32, 64, 1, {200}, {1, 2}),
        {"small", 64, Codes::kIntegers, 64, 1, {300, 64, 129}, {1, 1, 1}, {1, 2}},
        {"small refill", 32, Codes::kReal, 64, 1, {1100}, {1}, {1}},  // 18 pages, of which a ring holds 16
        {"small drafts", 32, Codes::kReal, 64, 2, {300, 200}, {2, 2}, {1, 2}},
        loose({"small, far below the bound", 32, Codes::kReal, 64, 1, {300, 64, 1100, 70}, {1, 1, 1, 1}, {2}},
              9000),
        {"small NaN", 32, Codes::kReal, 64, 1, {200, 150}, {1, 1}, {2}, 1 << 30, NanIn::kQuery, 1}};
  }
  std::vector<Case> all{
      {"integers, ragged",
       64,
       Codes::kIntegers,
       2048,
       1,
       {8192, 2049, 2048, 1, 5000, 7777, 64, 8129},
       {1, 1, 1, 1, 1, 1, 1, 1},
       {0, 1, 2, 4, 8, 16},
       600},
      {"ties", 64, Codes::kTies, 2048, 1, {8192, 4000, 2050}, {1, 1, 1}, {1, 4, 16}, 300},
      {"real", 64, Codes::kReal, 2048, 1, {8192, 6000, 3001}, {1, 1, 1}, {1, 2, 4, 8, 16}, 500},
      {"32 heads", 32, Codes::kIntegers, 2048, 1, {8192, 4097}, {1, 1}, {1, 4, 16}, 500},
      {"drafts of 2", 64, Codes::kIntegers, 2048, 2, {8192, 2049, 3000}, {2, 2, 2}, {1, 4, 16}, 300},
      {"drafts of 3", 64, Codes::kReal, 2048, 3, {8192, 2500}, {3, 3}, {2, 8}, 200},
      {"drafts, 32 heads", 32, Codes::kReal, 2048, 2, {6000, 2100}, {2, 2}, {1, 8}, 300},
      {"ragged drafts", 64, Codes::kTies, 512, 4, {5000, 700, 3000, 900}, {4, 1, 3, 2}, {1, 2, 8}, 300},
      {"small topk", 64, Codes::kReal, 5, 1, {1000, 6, 5, 4}, {1, 1, 1, 1}, {1, 2, 4}, 300},
      {"128k", 64, Codes::kTies, 2048, 1, {131072, 100000}, {1, 1}, {0, 4, 8, 16}, 100},
      // Slices of row scores above the 65,472 keys of a selection's.
      {"67 rows of 64k",
       64,
       Codes::kIntegers,
       2048,
       1,
       few_long({66000, 65537, 40000}, 67),
       ones(67),
       {16},
       50},
      {"27 rows of 256k", 64, Codes::kTies, 2048, 1, few_long({262144, 250001}, 27), ones(27), {16}, 50},
      {"128 rows of 128k", 32, Codes::kReal, 2048, 1, few_long({131072, 70001}, 128), ones(128), {16}, 50},
      kinds("kinds of scores", 64, 2048, 1, {8192, 2049, 3001}, {0, 1, 2, 4, 8, 16}),
      kinds("kinds of scores, 32 heads", 32, 2048, 1, {8129}, {1, 3, 16}),
      kinds("kinds of scores of drafts", 64, 2048, 2, {8192, 2300}, {0, 2, 8, 16}),
      kinds("kinds of scores of four drafts", 64, 512, 4, {3001}, {1, 4}),
      kinds("kinds of long rows' scores", 64, 2048, 1, {32768}, {0, 2, 8, 16}),
      // Of whatever lengths, under launch bounds that say little.
      loose({"one long row among short ones",
             64,
             Codes::kIntegers,
             2048,
             1,
             among({120001}, {1, 8192, 2048, 2049, 64, 7000, 3333, 2112}, 128),
             ones(128),
             {16},
             50},
            131072),
      loose({"one short row among long ones",
             32,
             Codes::kTies,
             2048,
             1,
             among({70}, {50000, 43777, 32769, 32768}, 67),
             ones(67),
             {16},
             20},
            131072),
      loose({"300 rows",
             64,
             Codes::kReal,
             2048,
             1,
             among({40000, 66000}, {2049, 2111, 2500, 100, 3000}, 300),
             ones(300),
             {16},
             20},
            131072),
      loose({"nothing to score", 64, Codes::kReal, 2048, 1, {2048, 64, 1}, {1, 1, 1}, {16}}, 131072),
      loose({"a row far below the bound", 64, Codes::kTies, 2048, 1, {8192}, {1}, {}, 300}, 524288),
      loose({"drafts far below the bound",
             64,
             Codes::kReal,
             512,
             4,
             among({30000, 20001}, {700, 5000, 300, 900, 3000}, 40),
             among({1, 4}, {4, 1, 3, 2}, 40),
             {16},
             30},
            131072),
      loose({"groups of several sequences",
             32,
             Codes::kIntegers,
             512,
             3,
             among({20000}, {1000, 1111, 515, 4000}, 30),
             ones(30),
             {8},
             50},
            65536),
      {"prompt", 64, Codes::kIntegers, 512, 1, {900, 1000}, {900, 150}, {1}, 20},
      {"real prompt", 64, Codes::kReal, 256, 1, {700}, {301}, {1}, 20},
      {"prompts behind one another", 64, Codes::kReal, 256, 4, {500, 333}, {500, 20}, {1}, 20},
      {"prompt, 32 heads", 32, Codes::kTies, 256, 4, {700}, {300}, {1}, 20},
  };
  const Case plain{"", 64, Codes::kReal, 512, 1, {3000, 4000, 500}, {1, 1, 1}, {1, 4, 16}, 100};
  const Case drafts{"", 64, Codes::kReal, 512, 2, {3000, 4000, 2000}, {2, 2, 1}, {1, 4}, 100};
  const Case prompt{"", 64, Codes::kReal, 256, 1, {700, 600}, {301, 200}, {1}, 20};
  const auto add = [&](const char* name, Case c, int heads, NanIn nan_in, int nan_row) {
    c.name = name;
    c.heads = heads;
    c.nan_in = nan_in;
    c.nan_row = nan_row;
    all.push_back(std::move(c));
  };
  add("NaN weight", plain, 64, NanIn::kHeadWeight, 1);
  add("NaN query", plain, 32, NanIn::kQuery, 0);
  add("NaN key", plain, 64, NanIn::kKeyScale, 1);
  add("NaN unread", plain, 64, NanIn::kKeyScale, 2);
  add("NaN weight of a draft", drafts, 32, NanIn::kHeadWeight, 2);
  add("NaN query of a draft", drafts, 64, NanIn::kQuery, 1);
  add("NaN key of a draft", drafts, 64, NanIn::kKeyScale, 3);
  add("NaN key of a prompt", prompt, 64, NanIn::kKeyScale, 150);
  add("NaN key of a short prompt", {"", 64, Codes::kReal, 256, 1, {700, 200}, {301, 200}, {1}, 20}, 64,
      NanIn::kKeyScale, 301 + 50);
  add("NaN query of a prompt", prompt, 32, NanIn::kQuery, 400);
  return all;
}

int main_of(bool small) {
  if (no_gpu("No kernel was tested")) return 0;
  const auto way = [](int cluster, int threads) {
    LaunchOptions options;
    options.cluster = cluster;
    options.threads = threads;
    return options;
  };
  if (small) {
    check_topk({1, 63, 64, 65, 300}, 64, {way(1, 512), way(2, 512), way(1, 1024)});
  } else {
    const std::vector<LaunchOptions> all = {way(0, 0),    way(1, 512), way(1, 1024), way(2, 512),
                                            way(4, 1024), way(8, 512), way(16, 512)};
    check_topk({1, 2047, 2048, 2049, 2050, 4097, 8191, 8192}, 2048, all);
    check_topk({5, 100, 1000, 12345}, 5, all);
    check_topk({32768, 30001}, 2048, all);
    check_topk({131072, 2049, 32768, 32769, 8192, 100000}, 2048, {way(0, 0)});  // dealt
    check_topk({131072, 120005}, 2048, {way(0, 0), way(4, 1024), way(8, 512), way(16, 1024)});
    check_topk({524288, 400001}, 2048, {way(0, 0), way(16, 1024)});  // chosen for so many rows: 12
  }
  for (const Case& c : cases(small)) Check(c).run();
  std::printf("%s: %d wrong\n", failures == 0 ? "PASSED" : "FAILED", failures);
  return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace fulgur::cuda_test

int main(int argc, char** argv) {
  return fulgur::cuda_test::main_of(argc > 1 && std::strcmp(argv[1], "--small") == 0);
}
