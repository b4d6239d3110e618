#pragma once

#include <string>
#include <string_view>

namespace fulgur {

/// Unicode's normalization form C as the `tokenizers` package has it: its data are old, and characters that
/// it doesn't know are left where they are. `text` must be valid UTF-8.
std::string to_nfc(std::string_view text);

}  // namespace fulgur
