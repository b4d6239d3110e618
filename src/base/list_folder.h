#pragma once

#include <filesystem>
#include <vector>

namespace fulgur {

/// What lies in a folder, sorted by name; links are not followed. Throws io_error where it can't be listed,
/// which a folder whose files can be opened may refuse all the same.
std::vector<std::filesystem::path> list_folder(const std::filesystem::path& folder);

}  // namespace fulgur
