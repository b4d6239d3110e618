#include "model/conversion.h"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>
#include <string_view>
#include <utility>

#include "base/list_folder.h"
#include "base/mapped_file.h"
#include "base/pending_folder.h"
#include "base/printable.h"
#include "base/text_file.h"
#include "checkpoint/convert_module.h"
#include "checkpoint/shard_writer.h"
#include "model/conversion_config.h"
#include "model/load.h"
#include "model/published_recipe.h"

namespace fulgur {
namespace {

namespace fs = std::filesystem;

constexpr const char* kConfigFile = "config.json";
constexpr const char* kHfQuantFile = "hf_quant_config.json";

/// Weights, and indexes of them, of any format: what is converted, or would be a stale copy beside it. By
/// what follows any dot of the name, so that parts and backups of such files are seen too: "a.safetensors.1".
bool holds_weights(const fs::path& file) {
  constexpr std::string_view kFormats[] = {
      "safetensors", "bin",       "pt",    "pth",     "ckpt",   "msgpack", "gguf", "ggml",     "ggjt",
      "onnx",        "onnx_data", "h5",    "hdf5",    "pb",     "npz",     "npy",  "pkl",      "pickle",
      "tflite",      "nemo",      "keras", "mlmodel", "engine", "ot",      "pte",  "llamafile"};
  std::string name = file.filename().string();
  std::transform(name.begin(), name.end(), name.begin(),
                 [](char c) { return static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c); });
  if (name.ends_with(".index.json")) return true;
  for (size_t dot = name.find('.'); dot != std::string::npos; dot = name.find('.', dot + 1)) {
    const std::string_view component =
        std::string_view(name).substr(dot + 1, name.find('.', dot + 1) - dot - 1);
    if (std::find(std::begin(kFormats), std::end(kFormats), component) != std::end(kFormats)) return true;
  }
  return false;
}

void refuse_other_spelling(const Config& config, Spelling spelling) {
  if (spelling == Spelling::kAsStored || config.sparse()) return;
  throw Error(Problem{
      .kind = ErrorKind::kBadRequest,
      .message = fmt::format("There is no indexer to {} in a model of type {}.",
                             spelling == Spelling::kFused ? "fuse" : "unfuse", name(config.model_type)),
      .expected = "a deepseek_v32 or glm_moe_dsa model",
      .found = std::string(name(config.model_type)),
      .todo = "leave --fuse and --unfuse away"});
}

std::string others_text(const fs::path& destination, const std::vector<std::string>& others) {
  if (others.empty()) return {};
  return fmt::format(
      "Beside {} {} {}{}, of a conversion to the same place that was killed, or runs: where none runs, it "
      "can be deleted.",
      destination.string(), others.size() == 1 ? "lies" : "lie", printable_name(others.front()),
      others.size() == 1 ? "" : fmt::format(" and {} more", others.size() - 1));
}

/// `leftovers`, if not empty, says what lies beside the destination.
void check_room(const PendingFolder& folder, const fs::path& destination, uint64_t bytes,
                const std::string& leftovers) {
  std::error_code error;
  const fs::space_info room = fs::space(folder.path(), error);
  if (error || room.available >= bytes) return;
  throw Error(Problem{
      .kind = ErrorKind::kIoError,
      .file = destination.string(),
      .message = fmt::format("'{}' can't be written: its disk has too little room.", destination.string()),
      .expected = fmt::format("{} bytes for the tensors", bytes),
      .found = fmt::format("{} bytes free", room.available),
      .todo = "make room on the disk, or name a folder on another" +
              (leftovers.empty() ? std::string() : ". " + leftovers)});
}

void copy_file(const PendingFolder& folder, const fs::path& source) {
  const auto from = MappedFile::open(source);
  OutputFile file = folder.create(source.filename().string());
  file.append(from->bytes());
  from->throw_if_damaged();
  file.finish();
}

std::string left_out_text(const ConversionPlan& conversion, const Catalog& catalog) {
  return fmt::format("{} quantized tensors that this model has no use for are left out, the first being {}.",
                     conversion.left_out.size(),
                     printable(catalog.entries[static_cast<size_t>(conversion.left_out.front())].name));
}

std::string inputs_left_out_text(int number) {
  return fmt::format(
      "{} scales of activations are left out: not all quantized matrices have one, "
      "and a config says the same of all.",
      number);
}

std::string larger_files_text(const WrittenShards& shards, uint64_t shard_bytes) {
  return fmt::format(
      "{} of {} files {} larger than --shard-size ({} bytes): a matrix and its scales stay together. "
      "The largest has {} bytes.",
      shards.num_larger, shards.num_files, shards.num_larger == 1 ? "is" : "are", shard_bytes,
      shards.largest_bytes);
}

std::string rounded_text(const std::vector<std::string>& rounded) {
  return fmt::format(
      "{} of the indexers' matrices {} products of codes and scales that bf16 and f32 can't hold exactly: "
      "written as bf16, rounded once as loading rounds them, the first being {}.",
      rounded.size(), rounded.size() == 1 ? "has" : "have", printable(rounded.front()));
}

/// The files under their temporary names; a refusal speaks of the destination.
Catalog read_back(const PendingFolder& folder, const fs::path& destination) {
  try {
    return read_catalog(folder.path());
  } catch (const Error& error) {
    Problem problem = error.problems().front();
    if (problem.kind != ErrorKind::kIoError) throw;
    problem.message =
        fmt::format("What was written to '{}' can't be read again, to check it before it gets that name: {}.",
                    destination.string(), problem.found);
    throw Error(std::move(problem));
  }
}

/// Whether FP8's scales are a byte each.
bool has_byte_scales(const LoadPlan& plan, const Catalog& catalog) {
  bool any = false;
  for (const PlannedParameter& parameter : plan.parameters) {
    for (const PlannedSource& source : parameter.sources) {
      for (const PlannedScale& scale : source.scales) {
        if (scale.role != ScaleRole::kBlocks) continue;
        const DType dtype = catalog.entries[static_cast<size_t>(scale.entry)].dtype;
        if (dtype != DType::kF8E8M0 && dtype != DType::kU8) return false;
        any = true;
      }
    }
  }
  return any;
}

/// With the modules that the model's releases quantize. What scale_fmt declares holds for activations too: it
/// is kept unless other scales are asked for.
Recipe recipe_of(const ConversionRequest& request, const Config& config, const LoadPlan& plan,
                 const Catalog& catalog) {
  Recipe recipe = published_recipe(config.model_type, *request.form);
  if (request.scales) {
    recipe.scales = *request.scales;
  } else if (*request.form == TargetForm::kFp8Block && config.power_of_two_scales()) {
    recipe.scales = has_byte_scales(plan, catalog) ? BlockScales::kE8m0 : BlockScales::kF32Pow2;
    recipe.keeps_scales = true;
  }
  return recipe;
}

/// A mistake of ours must not become a checkpoint: what was written is read again, from its headers.
void check_written(const PendingFolder& folder, const fs::path& destination, Config config,
                   const std::string& config_text, const ConversionTarget& target) {
  const Config written = parse_config(config_text, kConfigFile);
  if (target.recipe) config.quantization = written.quantization;
  const Catalog catalog = read_back(folder, destination);
  const ModelPlan plan = plan_model(config, Precision::kNative, catalog, /*with_mtp=*/true);
  if (plan.load.problems.empty()) return;
  throw std::logic_error("what was written would not load: " + plan.load.problems.front().message);
}

SideFiles side_files_of(const fs::path& folder, std::vector<std::string>& notices) {
  SideFiles files{.config = read_text_file(folder / kConfigFile)};
  std::vector<std::string> folders;
  for (const fs::path& path : list_folder(folder)) {
    const std::string name = path.filename().string();
    std::error_code error;
    if (name.starts_with(".") || name == kConfigFile || holds_weights(path)) continue;
    if (name == kHfQuantFile) {
      files.hf_quant_config = read_text_file(path);
    } else if (fs::is_directory(path, error)) {
      folders.push_back(name);
    } else {
      files.others.push_back(path);  // where it can't be read, copying says so
    }
  }
  if (!folders.empty()) {
    notices.push_back(fmt::format("Folders beside the checkpoint's files are not carried over: {}.",
                                  fmt::join(folders, ", ")));
  }
  return files;
}

}  // namespace

ConversionReport convert_checkpoint(const Config& config, const Catalog& catalog, const SideFiles& side_files,
                                    const fs::path& destination, const ConversionRequest& request,
                                    const LoadProgress& progress) {
  ConversionTarget target{.spelling = request.spelling};
  refuse_other_spelling(config, target.spelling);
  const ModelPlan plan = plan_model(config, Precision::kNative, catalog, /*with_mtp=*/true);
  if (request.form) target.recipe = recipe_of(request, config, plan.load, catalog);
  const ConversionPlan conversion = plan_conversion(plan.parameters, plan.load, catalog, target);
  const std::vector<ConvertedModule>& modules = conversion.modules;
  const ModuleChanges changes = module_changes(modules, catalog);
  const std::string config_text = converted_config(side_files.config, target, changes);
  const std::string hf_quant_text = converted_hf_quant_config(side_files.hf_quant_config, target, changes);

  ConversionReport report{.bytes = converted_bytes(modules), .notices = plan.notices};
  if (!conversion.left_out.empty()) report.notices.push_back(left_out_text(conversion, catalog));
  if (conversion.inputs_left_out > 0)
    report.notices.push_back(inputs_left_out_text(conversion.inputs_left_out));
  if (!conversion.rounded.empty()) report.notices.push_back(rounded_text(conversion.rounded));
  check_shard_size(modules, request.shard_bytes);
  PendingFolder folder(destination);
  const std::string leftovers = others_text(destination, others_pending(folder.destination()));
  check_room(folder, destination, report.bytes, leftovers);
  if (!leftovers.empty()) report.notices.push_back(leftovers);
  ModuleConverter converter(catalog, request.num_threads);
  const WrittenShards shards = write_shards(folder, modules, request.shard_bytes, converter, progress);
  report.num_files = shards.num_files;
  report.num_tensors = shards.num_tensors;
  if (shards.num_larger > 0) report.notices.push_back(larger_files_text(shards, request.shard_bytes));
  for (const fs::path& file : side_files.others) copy_file(folder, file);
  if (!hf_quant_text.empty()) folder.write(kHfQuantFile, hf_quant_text);
  check_written(folder, destination, config, config_text, target);
  folder.write(kConfigFile, config_text);  // without it nothing loads: the last
  folder.commit();
  return report;
}

ConversionReport convert_folder(const fs::path& source, const fs::path& destination,
                                const ConversionRequest& request, const LoadProgress& progress) {
  try {
    ModelFiles files = read_model_files(source);
    if (!files.problems.empty()) plan_files(files, Precision::kNative, /*with_mtp=*/true);
    if (!files.problems.empty()) throw Error(files.problems);
    std::vector<std::string> notices;
    const SideFiles side_files = side_files_of(source, notices);
    ConversionReport report =
        convert_checkpoint(*files.config, *files.catalog, side_files, destination, request, progress);
    report.notices.insert(report.notices.end(), notices.begin(), notices.end());
    return report;
  } catch (Error& error) {
    error.add_context(fmt::format("converting {}", source.string()));
    throw;
  }
}

ConversionReport convert_random_model(const RandomWeights& wanted, const fs::path& destination,
                                      const ConversionRequest& request, const LoadProgress& progress) {
  const RandomModel model = make_random_model(wanted);
  const SideFiles side_files{.config = model.config_text, .hf_quant_config = model.hf_quant_config};
  return convert_checkpoint(model.config, model.catalog, side_files, destination, request, progress);
}

}  // namespace fulgur
