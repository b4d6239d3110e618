// fulgur chat: a conversation in mini-v32's form, one line a message.

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <future>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/text_file.h"
#include "chat/mini_chat.h"
#include "cli/command.h"
#include "cli/model_options.h"
#include "cli/sampling_options.h"
#include "cli/streams.h"
#include "fulgur/engine.h"
#include "runtime/request_check.h"
#include "runtime/step_runner.h"
#include "tokenizer/tokenizer.h"

namespace fulgur::cli {
namespace {

/// Where --context doesn't say, and the model has so many positions.
constexpr int64_t kDefaultContext = 8192;
constexpr const char* kHelp =
    "One line a message; /clear begins anew, /help shows this, /exit or Ctrl-D ends, Ctrl-C stops an "
    "answer.\n";

struct Options {
  ModelOptions model;
  Sampling sampling;
  std::string system;
  std::string system_file;
  int64_t max_tokens = 512;
  std::optional<int64_t> context;
};

/// Without the blanks around it.
std::string trimmed(const std::string& line) {
  constexpr const char* kBlanks = " \t\r";
  const size_t begin = line.find_first_not_of(kBlanks);
  return begin == std::string::npos ? "" : line.substr(begin, line.find_last_not_of(kBlanks) - begin + 1);
}

/// Set by Ctrl-C: ends the answer, or the chat where none is being given.
std::atomic<bool> interrupted = false;
static_assert(std::atomic<bool>::is_always_lock_free, "a signal handler may set no other");

/// While it lives, Ctrl-C sets `interrupted` and lets a read return.
class InterruptGuard {
 public:
  InterruptGuard() {
    struct sigaction action = {};
    action.sa_handler = [](int) { interrupted = true; };
    sigaction(SIGINT, &action, &before_);
  }
  ~InterruptGuard() { sigaction(SIGINT, &before_, nullptr); }
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

 private:
  struct sigaction before_ = {};
};

/// Control tokens become their ids; what people wrote stays text, whatever it spells. Of a text that is more
/// than `most_ids`, not all.
std::vector<int32_t> encode(const std::vector<chat::Segment>& segments, const Tokenizer& tokenizer,
                            int64_t most_ids = std::numeric_limits<int64_t>::max()) {
  std::vector<int32_t> ids;
  for (const chat::Segment& segment : segments) {
    if (!segment.control) {
      const std::vector<int32_t> text = tokenizer.encode(
          segment.text, {.parse_added_tokens = false, .most_ids = static_cast<size_t>(most_ids)});
      ids.insert(ids.end(), text.begin(), text.end());
    } else if (const std::optional<int32_t> id = tokenizer.token_id(segment.text)) {
      ids.push_back(*id);
    } else {
      throw Error(Problem{.kind = ErrorKind::kUnsupported,
                          .message = "This model's tokenizer lacks a control token of the chat form.",
                          .expected = segment.text,
                          .todo = "use fulgur generate with a prompt in the model's own form"});
    }
  }
  return ids;
}

/// One conversation. Each message is a request that holds all of it; the engine's prefix cache has the
/// earlier turns.
class Conversation {
 public:
  Conversation(Engine& engine, const Config& config, const Tokenizer& tokenizer, const Options& options,
               int64_t context, const std::string& system)
      : engine_(engine),
        config_(config),
        tokenizer_(tokenizer),
        options_(options),
        context_(context),
        system_(system) {
    clear();
  }

  /// Bytes of the longest message that might fit.
  [[nodiscard]] size_t most_bytes() const { return tokenizer_.most_bytes(static_cast<size_t>(context_)); }
  [[noreturn]] void refuse(const std::string& found) const {
    throw Error(Problem{.kind = ErrorKind::kBadRequest,
                        .message = "The conversation no longer fits the context.",
                        .expected = fmt::format("at most {} tokens", context_),
                        .found = found,
                        .todo = "begin a new one with /clear, or raise --context"});
  }

  void clear() { ids_ = encode(chat::begin(system_), tokenizer_); }

  /// Streams the answer to stdout.
  void say(const std::string& user) {
    std::vector<int32_t> prompt = ids_;
    const std::vector<int32_t> turn = encode(chat::user_turn(user), tokenizer_, context_);
    prompt.insert(prompt.end(), turn.begin(), turn.end());
    const int64_t room = context_ - std::ssize(prompt);
    if (room < 1) refuse(fmt::format("{} tokens or more", prompt.size()));
    std::promise<Generation> promise;
    const std::shared_future<Generation> submitted = promise.get_future().share();
    promise.set_value(engine_.submit({.prompt = prompt,
                                      .max_tokens = std::min(room, options_.max_tokens),
                                      .sampling = options_.sampling,
                                      .on_token = [&](const GeneratedToken& token) {  // as generate prints
                                        write_out(token.text);
                                        flush_output();
                                        if (interrupted) Generation(submitted.get()).cancel();
                                      }}));
    const Completion answer = Generation(submitted.get()).wait();
    write_out("\n");
    flush_output();
    ids_ = std::move(prompt);
    ids_.insert(ids_.end(), answer.ids.begin(), answer.ids.end());
    // An answer that was cut short gets its end token all the same.
    if (!answer.ids.empty() && config_.is_eos(answer.ids.back())) return;
    if (answer.finish != FinishReason::kCancelled) print_log("(cut after {} tokens)\n", answer.ids.size());
    const std::vector<int32_t> end = encode(chat::end_of_answer(), tokenizer_);
    ids_.insert(ids_.end(), end.begin(), end.end());
  }

 private:
  Engine& engine_;
  const Config& config_;
  const Tokenizer& tokenizer_;
  const Options& options_;
  const int64_t context_;
  const std::string& system_;
  std::vector<int32_t> ids_;
};

/// Tokens that the caches are made for.
int64_t context_tokens(const Options& options, const Config& config) {
  const int64_t positions = config.max_position_embeddings;
  if (options.context && *options.context > positions) {
    throw Error(Problem{.kind = ErrorKind::kBadRequest,
                        .message = "--context asks for more than the model's positions.",
                        .expected = fmt::format("at most max_position_embeddings = {}", positions),
                        .found = fmt::format("--context {}", *options.context),
                        .todo = "ask for fewer tokens"});
  }
  return options.context.value_or(std::min(kDefaultContext, positions));
}

int run_chat(const Options& options) {
  FoundModel found = find_model(options.model);
  const std::optional<Tokenizer> tokenizer = open_tokenizer(found);
  if (!tokenizer) {
    throw Error(Problem{.kind = ErrorKind::kBadRequest,
                        .file = found.folder.string(),
                        .message = "A chat needs the model's tokenizer.",
                        .expected = "tokenizer.json in the model's folder",
                        .found = "none",
                        .todo = "fetch it, or use fulgur generate --ids"});
  }
  const std::string system =
      options.system_file.empty() ? options.system : read_text_file(options.system_file);
  const int64_t context = context_tokens(options, found.config());
  check_sampling(options.sampling, found.config());
  const OpenedModel model = open_model(std::move(found), options.model, {.cache_tokens = context});
  Engine engine = make_engine(options.model, model, &*tokenizer);
  Conversation conversation(engine, model.loaded.config, *tokenizer, options, context, system);

  const bool terminal = isatty(STDIN_FILENO) == 1;
  if (terminal) print_log("{}", kHelp);
  const InterruptGuard guard;
  bool failed = false;
  while (true) {
    if (terminal) print_log("> ");
    interrupted = false;
    // A pasted book is neither kept nor encoded, which would take memory.
    std::optional<std::string> line = read_input_line(conversation.most_bytes() + 1);
    if (line && line->ends_with('\r')) line->pop_back();  // lines of a file that was written on Windows
    if (!line) break;
    const std::string word = trimmed(*line);
    if (word.empty()) continue;
    if (word == "/exit") break;
    if (word == "/clear") {
      conversation.clear();
      continue;
    }
    if (word == "/help") {
      print_log("{}", kHelp);
      continue;
    }
    try {
      if (line->size() > conversation.most_bytes())
        conversation.refuse(fmt::format("a message of more than {} bytes", conversation.most_bytes()));
      conversation.say(*line);
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kBadRequest) throw;
      print_log("{}\n", error.what());  // this message was refused; the conversation goes on
      failed = true;
    }
  }
  if (terminal) print_log("\n");
  if (options.model.profile) print_profile(engine.runner().profile());
  return failed && !terminal ? kExitFailed : kExitDone;
}

}  // namespace

std::function<int()> declare_chat(Arguments& args) {
  auto options = std::make_shared<Options>();
  Option system =
      args.add_option("--system", options->system, "What the conversation begins with").type_name("TEXT");
  args.add_option("--system-file", options->system_file, "The same from a file")
      .path()
      .type_name("F")
      .excludes(system);
  args.add_option("--max-tokens", options->max_tokens, "Most tokens of an answer (default: 512)")
      .integer_range(1, int64_t{1} << 24)
      .type_name("N");
  args.add_option("--context", options->context,
                  "Tokens of the whole conversation (default: 8192, or the model's positions)")
      .integer_range(64, int64_t{1} << 24)
      .type_name("N");
  add_sampling_options(args, options->sampling);
  add_model_options(args, options->model);
  add_speculate_option(args, options->model);
  args.footer(
      "Examples:\n"
      "  fulgur chat\n"
      "  echo 'One of the plums costs 9 dollars. How many dollars do 2 plums cost?' | fulgur chat");
  return [options] { return run_chat(*options); };
}

}  // namespace fulgur::cli
