#pragma once

#include <optional>
#include <string_view>

#include "tokenizer/code_point_set.h"

namespace fulgur {

/// The classes of code points that tokenizer.json's parts go by, as the `tokenizers` package has them. They
/// come from a table made by asking it (tools/make_unicode_table.py): its parts follow different Unicode
/// versions, and none of them is that of this machine's libraries.
namespace unicode {

/// \p{NAME} in a regex: a general category ("Lu") or the first letter of some ("L"), in either case.
std::optional<CodePointSet> category(std::string_view name);

const CodePointSet& regex_space();  // \s
const CodePointSet& regex_digit();  // \d
const CodePointSet& regex_word();   // \w
const CodePointSet& numeric();      // what the Digits pre-tokenizer splits off
const CodePointSet& word();         // what `single_word` takes for part of a word
const CodePointSet& space();        // what `lstrip` and `rstrip` take in
const CodePointSet& nfc_active();   // what NFC may change, move or compose with a neighbour

/// All code points that equal the ASCII letter where case is ignored, or just `ascii` if it is no letter.
CodePointSet ignoring_case(char ascii);

}  // namespace unicode
}  // namespace fulgur
