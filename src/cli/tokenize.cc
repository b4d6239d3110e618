// fulgur tokenize: text to token ids, and back.

#include <fmt/format.h>
#include <unistd.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "base/text_file.h"
#include "cli/command.h"
#include "cli/model_options.h"
#include "cli/streams.h"
#include "cli/token_lists.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/utf8.h"

namespace fulgur::cli {
namespace {

struct Options {
  ModelOptions model;
  std::optional<std::string> text;
  std::string file;
  bool json = false;
  bool jsonl = false;
  bool decode = false;
  bool no_specials = false;
  bool add_bos = false;
};

/// What is to be tokenized or decoded, and what messages call it.
struct Input {
  std::string text;
  std::string name;
};

Input read_input(const Options& options) {
  if (!options.text) return {read_text_file(options.file), options.file};
  if (*options.text == "-") return {read_text_file("-"), "standard input"};
  return {*options.text, "the argument"};
}

std::vector<int32_t> encode(const Tokenizer& tokenizer, const Options& options, std::string_view text) {
  std::vector<int32_t> ids = tokenizer.encode(text, {.parse_added_tokens = !options.no_specials});
  if (!options.add_bos) return ids;
  if (!tokenizer.bos()) {
    throw Error(Problem{.kind = ErrorKind::kBadRequest,
                        .message = "--add-bos needs a tokenizer that has a BOS token.",
                        .expected = "bos_token in tokenizer_config.json"});
  }
  if (ids.empty() || ids.front() != *tokenizer.bos()) ids.insert(ids.begin(), *tokenizer.bos());
  return ids;
}

/// JSON text in ASCII, so that a line stays a line for every reader.
std::string json_text(const Json& value) { return value.dump(-1, ' ', /*ensure_ascii=*/true); }

/// One line of --jsonl: a JSON string in and an array of ids out, or the reverse.
std::string convert_line(const Tokenizer& tokenizer, const Options& options, std::string_view line,
                         const std::string& name) {
  if (line.find_first_not_of(" \t\r") == std::string_view::npos) {
    throw Error(
        Problem{.kind = ErrorKind::kBadRequest,
                .file = name,
                .message = "This line is blank.",
                .expected = options.decode ? "an array of ids" : "a JSON string; \"\" for an empty text",
                .found = "nothing",
                .todo = "remove the line"});
  }
  const Json value = parse_json(line, ErrorKind::kBadRequest, name);
  if (options.decode) return json_text(tokenizer.decode(token_list(value, name)));
  if (!value.is_string()) {
    throw Error(Problem{.kind = ErrorKind::kBadRequest,
                        .file = name,
                        .message = "This line is not a JSON string.",
                        .expected = "one JSON string a line",
                        .found = brief(value)});
  }
  return json_text(encode(tokenizer, options, value.get_ref<const std::string&>()));
}

void convert_lines(const Tokenizer& tokenizer, const Options& options, const Input& input) {
  std::string_view rest = input.text;
  for (int64_t number = 1; !rest.empty(); ++number) {
    const std::string name = fmt::format("{}, line {}", input.name, number);
    try {
      print_out("{}\n", convert_line(tokenizer, options, take_line(rest), name));
    } catch (const Error& error) {
      Problem problem = error.problems().front();
      problem.file = name;
      throw Error(std::move(problem));
    }
  }
}

void print_ids(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  const size_t width = std::to_string(tokenizer.num_ids()).size();
  for (const int32_t id : ids) print_out("{:>{}}  {}\n", id, width, quote(tokenizer.piece(id)));
}

int run_tokenize(const Options& options) {
  const Tokenizer tokenizer = Tokenizer::load(model_folder(options.model));
  const Input input = read_input(options);
  if (options.jsonl) {
    convert_lines(tokenizer, options, input);
  } else if (options.decode) {
    const std::string text = tokenizer.decode(parse_ids(input.text, input.name));
    // Without --json the text alone, to the byte; a terminal's prompt goes on a line of its own.
    if (options.json) {
      print_out("{}\n", json_text(text));
    } else {
      write_out(text);
      if (isatty(STDOUT_FILENO) == 1) print_out("\n");
    }
  } else if (options.json) {
    print_out("{}\n", json_text(encode(tokenizer, options, input.text)));
  } else {
    print_ids(tokenizer, encode(tokenizer, options, input.text));
  }
  return kExitDone;
}

}  // namespace

std::function<int()> declare_tokenize(Arguments& args) {
  auto options = std::make_shared<Options>();
  Arguments input = args.one_of_these("Input", "One of these");
  input.add_option("TEXT", options->text, "The text; - reads standard input").type_name("");
  input.add_option("--file", options->file, "Read the text from a file").path().type_name("F");
  Option json = args.add_flag("--json", options->json, "Print one JSON array of ids");
  args.add_flag("--jsonl", options->jsonl,
                "Each input line is a JSON string, each output line its array of ids")
      .excludes(json);
  Option decode = args.add_flag("--decode", options->decode, "Ids to text: [1, 2, 3] or 1,2,3");
  args.add_flag("--no-specials", options->no_specials, "Text that spells an added token stays text")
      .excludes(decode);
  args.add_flag("--add-bos", options->add_bos, "Put BOS in front unless the text begins with it")
      .excludes(decode);
  args.add_option("--model", options->model.model, "Folder of the checkpoint (default: the bundled mini-v32)")
      .path()
      .type_name("DIR");
  args.footer(
      "Examples:\n"
      "  fulgur tokenize 'In the beginning God created'\n"
      "  fulgur tokenize --json --add-bos 'In the beginning'\n"
      "  fulgur tokenize --json 'And God said' | fulgur tokenize --decode -");
  return [options] { return run_tokenize(*options); };
}

}  // namespace fulgur::cli
