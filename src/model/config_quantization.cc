#include <string_view>

#include "model/config_sections.h"

namespace fulgur {

void check_quantization(ConfigFields& config) {
  constexpr std::string_view kField = "quantization_config";
  if (!config.has(kField)) return;
  if (!config.value(kField).is_object()) {
    config.refuse(kField, "an object, or null");
    return;
  }
  ConfigFields fields(config.value(kField), config.file(), config.problems(), "quantization_config.");
  const auto listed = [&](std::string_view field, std::initializer_list<std::string_view> allowed) {
    fields.choice(field, allowed, ErrorKind::kUnsupported, "");
  };
  if (!fields.has("quant_method")) {
    fields.refuse_missing("quant_method", "\"fp8\", \"modelopt\" or \"compressed-tensors\"");
  } else {
    listed("quant_method", {"fp8", "modelopt", "compressed-tensors"});
  }
  listed("fmt", {"e4m3"});
  listed("quant_algo", {"NVFP4", "FP8"});
  listed("format", {"nvfp4-pack-quantized", "float-quantized"});
  if (fields.has("scale_fmt")) listed("scale_fmt", {"ue8m0"});
  if (fields.has("weight_block_size")) {
    const Json& size = fields.value("weight_block_size");
    const auto is_extent = [](const Json& extent) { return extent.is_number_integer() && extent > 0; };
    if (!size.is_array() || size.size() != 2 || !is_extent(size[0]) || !is_extent(size[1])) {
      fields.refuse("weight_block_size", "two positive integers");
    } else if (size != Json{128, 128}) {
      fields.refuse("weight_block_size", "[128,128]", ErrorKind::kUnsupported);
    }
  }
}

}  // namespace fulgur
