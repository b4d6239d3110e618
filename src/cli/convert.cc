// fulgur convert: a checkpoint in another storage form, its indexer's projection fused or not, in other
// shards.

#include <fmt/format.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/log.h"
#include "cli/byte_size.h"
#include "cli/command.h"
#include "cli/progress.h"
#include "cli/random_options.h"
#include "cli/streams.h"
#include "cli/threads_option.h"
#include "model/conversion.h"

namespace fulgur::cli {
namespace {

const std::map<std::string, BlockScales> kScales = {
    {"f32", BlockScales::kF32}, {"f32-pow2", BlockScales::kF32Pow2}, {"e8m0", BlockScales::kE8m0}};

struct Options {
  std::string source;  // with --random-weights the destination
  std::string destination;
  RandomOptions random;
  std::string to;      // empty: forms as they are
  std::string scales;  // empty: as the source declares
  std::string shard_size;
  bool fuse = false;
  bool unfuse = false;
  int threads = 0;
};

ConversionRequest request_of(const Options& options) {
  ConversionRequest request;
  for (const TargetForm form : kTargetForms) {
    if (options.to == name(form)) request.form = form;
  }
  if (!options.scales.empty()) request.scales = kScales.at(options.scales);
  if (options.fuse) request.spelling = Spelling::kFused;
  if (options.unfuse) request.spelling = Spelling::kSeparate;
  if (!options.shard_size.empty()) request.shard_bytes = *parse_byte_size(options.shard_size);
  request.num_threads = num_threads(options.threads);
  return request;
}

int run_convert(const Options& options) {
  const bool random = options.random.chosen();
  if (random && !options.destination.empty())
    usage_error("--random-weights", "stands in the place of SRC: DST alone is named");
  const std::string& destination = random ? options.source : options.destination;
  if (options.source.empty()) usage_required(random ? "DST" : "SRC, or --random-weights,");
  if (destination.empty()) usage_required("DST");
  ConversionReport report;
  {
    Progress progress("converting", "B");
    const auto show = [&](uint64_t done, uint64_t total) { progress.update(done, total); };
    report =
        random ? convert_random_model(random_weights(options.random), destination, request_of(options), show)
               : convert_folder(options.source, destination, request_of(options), show);
  }
  for (const std::string& notice : report.notices) log_notice(notice);
  print_out("{}: {} tensors in {} file{}, {} bytes\n", destination, report.num_tensors, report.num_files,
            report.num_files == 1 ? "" : "s", report.bytes);
  return kExitDone;
}

}  // namespace

std::function<int()> declare_convert(Arguments& args) {
  auto options = std::make_shared<Options>();
  args.add_option("SRC", options->source, "Folder of the checkpoint");
  args.add_option("DST", options->destination, "Folder to be made; if it is there, it must be empty");
  add_random_options(args, options->random);
  const Option fuse = args.add_flag("--fuse", options->fuse,
                                    "Write the indexer's wk and weights_proj as one tensor, wk_weights_proj");
  args.add_flag("--unfuse", options->unfuse, "Write them as two").excludes(fuse);
  std::vector<std::string> forms;
  for (const TargetForm form : kTargetForms) forms.emplace_back(name(form));
  args.add_option("--to", options->to,
                  "Storage form; what stays bf16 in it does in the published releases (default: as stored)")
      .one_of(forms)
      .type_name("");
  args.add_option("--scales", options->scales,
                  "Scales of --to fp8-block (default: what SRC's scale_fmt says, else f32)")
      .one_of({"f32", "f32-pow2", "e8m0"})
      .type_name("");
  args.add_option("--shard-size", options->shard_size, "Most bytes of a file (default: 5GB)")
      .byte_size()
      .type_name("SIZE");
  add_threads_option(args, options->threads, "Threads to compute on (default: one for each CPU it may use)");
  args.finally([options] {
    if (!options->scales.empty() && options->to != name(TargetForm::kFp8Block))
      usage_error("--scales", "is for --to fp8-block alone");
  });
  args.footer(
      "Examples:\n"
      "  fulgur convert models/mini-v32 /tmp/mini-fused --fuse\n"
      "  fulgur convert models/mini-v32 /tmp/mini-fp8 --to fp8-block --scales e8m0 --shard-size 2MB\n"
      "  fulgur convert --random-weights models/mini-v32/config.json --weights-form nvfp4-ct "
      "/tmp/mini-random");
  return [options] { return run_convert(*options); };
}

}  // namespace fulgur::cli
