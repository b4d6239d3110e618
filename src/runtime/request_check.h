#pragma once

#include <span>

#include "fulgur/engine.h"
#include "model/config.h"

namespace fulgur {

/// Refuses what no engine over this model could run: throws bad_request.
void check_request(const Request& request, const Config& config, bool has_tokenizer);

/// The part of it about a prompt's ids.
void check_tokens(std::span<const int32_t> tokens, const Config& config, bool has_tokenizer);

/// The part of it that can be told before there is a prompt.
void check_sampling(const Sampling& sampling, const Config& config);

/// The tokens that a request can grow to, as far as they are ever in the caches.
int64_t most_cached_tokens(const Request& request);

}  // namespace fulgur
