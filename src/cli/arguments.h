#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace fulgur::cli {

// What a command takes, declared. CLI11 does the work; arguments.cc and main.cc alone include it, since a
// file that does takes ten seconds to compile.

/// One option, or one argument without a name. What is set on it here holds once it is parsed; a value that
/// fails a check is a usage error.
class Option {
 public:
  explicit Option(CLI::Option* option) : option_(option) {}

  Option& type_name(const std::string& name);  // how --help calls the value
  Option& group(const std::string& name);      // under which heading --help shows it
  Option& required();
  Option& excludes(const Option& other);
  Option& needs(const Option& other);
  Option& comma_separated();  // several values in one argument
  Option& one_at_a_time();    // several values, the option's name before each

  // Checks.
  Option& integer_range(int64_t least, int64_t most);
  Option& number_range(double least, double most);  // and not NaN
  Option& one_of(const std::vector<std::string>& names);
  Option& seed();        // an integer from 0 to 2^64 - 1
  Option& text();        // in UTF-8, not empty
  Option& path();        // not empty, as a shell variable that is not set
  Option& byte_size();   // what cli/byte_size.h parses
  Option& token_bias();  // what cli/token_bias.h parses

 private:
  CLI::Option* option_;
};

/// The options of one command.
class Arguments {
 public:
  explicit Arguments(CLI::App& app) : app_(&app) {}

  /// `names`: "--file", or "FILE" for an argument by its place. T: bool's flags have a function of their own;
  /// arguments.cc lists the types.
  template <typename T>
  Option add_option(const std::string& names, T& value, const std::string& help);
  /// The same for a value that `take` makes something of.
  Option add_option(const std::string& names, const std::function<void(const std::string&)>& take,
                    const std::string& help);
  /// For values of which there may be many.
  Option add_options(const std::string& names,
                     const std::function<void(const std::vector<std::string>&)>& take,
                     const std::string& help);
  Option add_flag(const std::string& names, bool& value, const std::string& help);
  /// Options of which exactly one must be given.
  Arguments one_of_these(const std::string& heading, const std::string& help);
  /// Adds a command of the command; exactly one of those added must be given. `chosen`: it was parsed.
  Arguments add_command(const std::string& name, const std::string& summary, std::function<void()> chosen);
  /// One that was added before.
  Option get_option(const std::string& name);

  /// What --help ends with: examples.
  void footer(const std::string& text);
  /// Called when everything is parsed; may end in a usage_error.
  void finally(std::function<void()> check);

 private:
  CLI::App* app_;
};

/// Usage that the declarations don't forbid: exit code 2, with "<option>: <what>".
[[noreturn]] void usage_error(const std::string& option, const std::string& what);
/// The same for something that must be given and isn't.
[[noreturn]] void usage_required(const std::string& what);

}  // namespace fulgur::cli
