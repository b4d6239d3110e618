#include "cli/sampling_options.h"

#include <string>
#include <vector>

#include "cli/token_bias.h"

namespace fulgur::cli {
void add_sampling_options(Arguments& args, Sampling& sampling) {
  const char* group = "Sampling";
  args.add_option("--temperature", sampling.temperature, "0: greedy (default)")
      .number_range(0, 100)
      .type_name("T")
      .group(group);
  args.add_option("--top-k", sampling.top_k, "Draw from the K likeliest tokens (default: 0, all)")
      .integer_range(0, 1 << 24)
      .type_name("K")
      .group(group);
  args.add_option("--top-p", sampling.top_p,
                  "Draw from the likeliest tokens that together have this probability (default: 1)")
      .number_range(0, 1)
      .type_name("P")
      .group(group);
  args.add_option("--min-p", sampling.min_p,
                  "Only tokens at least P times as likely as the likeliest (default: 0)")
      .number_range(0, 1)
      .type_name("P")
      .group(group);
  args.add_option(
          "--repetition-penalty", sampling.repetition_penalty,
          "Divide the positive logits of tokens of prompt and text by R, multiply others (default: 1)")
      .number_range(0.01, 100)
      .type_name("R")
      .group(group);
  args.add_option("--frequency-penalty", sampling.frequency_penalty,
                  "Subtract F from a token's logit for each time that it is in the text (default: 0)")
      .number_range(-100, 100)
      .type_name("F")
      .group(group);
  args.add_option("--presence-penalty", sampling.presence_penalty,
                  "Subtract P once from the logits of the text's tokens (default: 0)")
      .number_range(-100, 100)
      .type_name("P")
      .group(group);
  args.add_options(
          "--logit-bias",
          [&sampling](const std::vector<std::string>& biases) {
            for (const std::string& bias : biases) sampling.logit_bias.push_back(*parse_token_bias(bias));
          },
          "Add B, -100 to 100, to a token's logit, before penalties; may be given more than once")
      .one_at_a_time()
      .token_bias()
      .type_name("ID:B")
      .group(group);
  args.add_option("--seed", sampling.seed,
                  "Seed of the draws; the same seed gives the same text (default: 0)")
      .seed()
      .type_name("S")
      .group(group);
}

}  // namespace fulgur::cli
