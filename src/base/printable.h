#pragma once

#include <string>
#include <string_view>

namespace fulgur {

/// A name from a file as a message may show it: all but plain ASCII escaped, the middle of a very long one
/// left out.
std::string printable(std::string_view text);

/// The same between quotes where it would not be taken for a name: nothing, or spaces in it.
std::string printable_name(std::string_view name);

}  // namespace fulgur
