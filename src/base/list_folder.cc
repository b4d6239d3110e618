#include "base/list_folder.h"

#include <algorithm>
#include <system_error>

#include "base/error.h"

namespace fulgur {

std::vector<std::filesystem::path> list_folder(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> paths;
  std::error_code error;
  for (std::filesystem::directory_iterator at(folder, error), end; !error && at != end; at.increment(error))
    paths.push_back(at->path());
  if (error) {
    throw Error(Problem{.kind = ErrorKind::kIoError,
                        .file = folder.string(),
                        .message = "The checkpoint's folder can't be read.",
                        .expected = "a folder that may be listed",
                        .found = error.message(),
                        .todo = "check its permissions"});
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

}  // namespace fulgur
