#include "cli/arguments.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <optional>
#include <utility>

#include "cli/byte_size.h"
#include "cli/token_bias.h"
#include "tokenizer/utf8.h"

namespace fulgur::cli {
namespace {

// Checks that CLI11 doesn't have: its Range lets NaN pass, and its unsigned integers wrap and saturate.

std::string check_finite(const std::string& given) {
  const bool finite = given.find_first_of("nN") == std::string::npos;  // "nan", "inf"
  return finite ? "" : given + " is not a finite number";
}

std::string check_seed(const std::string& given) {
  uint64_t value = 0;
  const char* end = given.data() + given.size();
  const auto [rest, error] = std::from_chars(given.data(), end, value);
  const bool whole = error == std::errc() && rest == end;
  return whole ? "" : given + " is not an integer from 0 to 18446744073709551615";
}

std::string check_text(const std::string& given) {
  if (given.empty()) return "the text can't be empty";
  const size_t at = find_invalid_utf8(given);
  return at == std::string::npos ? "" : fmt::format("the text is not valid UTF-8 at byte {}", at);
}

std::string check_byte_size(const std::string& given) {
  return parse_byte_size(given) ? "" : given + " is no size such as 5GB, 500MB or 4GiB";
}

std::string check_token_bias(const std::string& given) {
  return parse_token_bias(given) ? "" : given + " is no token id and bias such as 42:-1.5";
}

std::string check_path(const std::string& given) { return given.empty() ? "the name can't be empty" : ""; }

}  // namespace

Option& Option::type_name(const std::string& name) {
  option_->type_name(name);
  return *this;
}

Option& Option::group(const std::string& name) {
  option_->group(name);
  return *this;
}

Option& Option::required() {
  option_->required();
  return *this;
}

Option& Option::excludes(const Option& other) {
  option_->excludes(other.option_);
  return *this;
}

Option& Option::needs(const Option& other) {
  option_->needs(other.option_);
  return *this;
}

Option& Option::comma_separated() {
  option_->delimiter(',');
  return *this;
}

Option& Option::one_at_a_time() {
  option_->allow_extra_args(false);
  return *this;
}

Option& Option::integer_range(int64_t least, int64_t most) {
  option_->check(CLI::Range(least, most));
  return *this;
}

Option& Option::number_range(double least, double most) {
  option_->check(CLI::Validator(check_finite, ""))->check(CLI::Range(least, most));
  return *this;
}

Option& Option::one_of(const std::vector<std::string>& names) {
  option_->check(CLI::IsMember(names));
  return *this;
}

Option& Option::seed() {
  option_->check(CLI::Validator(check_seed, ""));
  return *this;
}

Option& Option::text() {
  option_->check(CLI::Validator(check_text, ""));
  return *this;
}

Option& Option::byte_size() {
  option_->check(CLI::Validator(check_byte_size, ""));
  return *this;
}

Option& Option::token_bias() {
  option_->check(CLI::Validator(check_token_bias, ""));
  return *this;
}

Option& Option::path() {
  option_->check(CLI::Validator(check_path, ""));
  return *this;
}

template <typename T>
Option Arguments::add_option(const std::string& names, T& value, const std::string& help) {
  return Option(app_->add_option(names, value, help));
}

template Option Arguments::add_option(const std::string&, std::string&, const std::string&);
template Option Arguments::add_option(const std::string&, std::vector<std::string>&, const std::string&);
template Option Arguments::add_option(const std::string&, std::vector<int>&, const std::string&);
template Option Arguments::add_option(const std::string&, int&, const std::string&);
template Option Arguments::add_option(const std::string&, int64_t&, const std::string&);
template Option Arguments::add_option(const std::string&, uint64_t&, const std::string&);
template Option Arguments::add_option(const std::string&, float&, const std::string&);
template Option Arguments::add_option(const std::string&, std::optional<int64_t>&, const std::string&);
template Option Arguments::add_option(const std::string&, std::optional<uint64_t>&, const std::string&);
template Option Arguments::add_option(const std::string&, std::optional<std::string>&, const std::string&);

Option Arguments::add_option(const std::string& names, const std::function<void(const std::string&)>& take,
                             const std::string& help) {
  return Option(app_->add_option_function<std::string>(names, take, help));
}

Option Arguments::add_options(const std::string& names,
                              const std::function<void(const std::vector<std::string>&)>& take,
                              const std::string& help) {
  return Option(app_->add_option_function<std::vector<std::string>>(names, take, help));
}

Option Arguments::add_flag(const std::string& names, bool& value, const std::string& help) {
  return Option(app_->add_flag(names, value, help));
}

Arguments Arguments::one_of_these(const std::string& heading, const std::string& help) {
  CLI::Option_group* group = app_->add_option_group(heading, help);
  group->require_option(1);
  return Arguments(*group);
}

Arguments Arguments::add_command(const std::string& name, const std::string& summary,
                                 std::function<void()> chosen) {
  app_->require_subcommand(1);
  CLI::App* sub = app_->add_subcommand(name, summary);
  sub->parse_complete_callback(std::move(chosen));
  return Arguments(*sub);
}

Option Arguments::get_option(const std::string& name) { return Option(app_->get_option(name)); }

void Arguments::footer(const std::string& text) { app_->footer(text); }

void Arguments::finally(std::function<void()> check) { app_->final_callback(std::move(check)); }

void usage_error(const std::string& option, const std::string& what) {
  throw CLI::ValidationError(option, what);
}

void usage_required(const std::string& what) { throw CLI::RequiredError(what); }

}  // namespace fulgur::cli
