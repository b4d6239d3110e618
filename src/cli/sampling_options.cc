#include "cli/sampling_options.h"

#include "cli/validators.h"

namespace fulgur::cli {
void add_sampling_options(CLI::App& app, SamplingParams& sampling) {
  const char* group = "Sampling";
  app.add_option("--temperature", sampling.temperature, "0: greedy (default)")
      ->check(finite_number())
      ->check(CLI::Range(0.0, 100.0))
      ->type_name("T")
      ->group(group);
  app.add_option("--top-k", sampling.top_k, "Draw from the K likeliest tokens (default: 0, all)")
      ->check(CLI::Range(0, 1 << 24))
      ->type_name("K")
      ->group(group);
  app.add_option("--top-p", sampling.top_p,
                 "Draw from the likeliest tokens that together have this probability (default: 1)")
      ->check(finite_number())
      ->check(CLI::Range(0.0, 1.0))
      ->type_name("P")
      ->group(group);
  app.add_option("--min-p", sampling.min_p,
                 "Only tokens at least P times as likely as the likeliest (default: 0)")
      ->check(finite_number())
      ->check(CLI::Range(0.0, 1.0))
      ->type_name("P")
      ->group(group);
  app.add_option("--seed", sampling.seed, "Seed of the draws; the same seed gives the same text (default: 0)")
      ->check(seed())
      ->type_name("S")
      ->group(group);
}

}  // namespace fulgur::cli
